//! Which route a path names and which methods that route answers.
//!
//! Matches the path as it came over the wire. actix-web's router would decode it first, so `%2F`,
//! `%00`, a line feed or invalid UTF-8 in a key would match something else or nothing. It is also one
//! comparison of a short prefix where the router would run a regular expression.

use actix_web::http::Method;

/// A route of the contract, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Keys,
    Key,
    Kv,
    List,
    Snapshot,
    Writes,
    Status,
    Join,
    Members,
    Member,
    Promote,
    MemberFaults,
    Leader,
    Faults,
    Fault,
    Livez,
    Readyz,
    Metrics,
    Events,
    Observation,
    Cluster,
    OpenApi,
    Home,
    Unknown,
}

impl Route {
    /// Every route, in the order of its discriminant.
    pub(crate) const ALL: [Route; 24] = [
        Route::Keys,
        Route::Key,
        Route::Kv,
        Route::List,
        Route::Snapshot,
        Route::Writes,
        Route::Status,
        Route::Join,
        Route::Members,
        Route::Member,
        Route::Promote,
        Route::MemberFaults,
        Route::Leader,
        Route::Faults,
        Route::Fault,
        Route::Livez,
        Route::Readyz,
        Route::Metrics,
        Route::Events,
        Route::Observation,
        Route::Cluster,
        Route::OpenApi,
        Route::Home,
        Route::Unknown,
    ];

    /// The route of a raw path and, for routes that take a key, an id or a name, that part of it, raw.
    pub(crate) fn find(path: &str) -> (Route, &str) {
        if let Some(rest) = path.strip_prefix("/v1/kv/") {
            return (Route::Kv, rest);
        }
        if let Some(rest) = path.strip_prefix("/key/") {
            return (Route::Key, rest);
        }
        if let Some(rest) = path.strip_prefix("/v1/writes/") {
            return (Route::Writes, rest);
        }
        if let Some(rest) = path.strip_prefix("/v1/members/") {
            if let Some(name) = rest.strip_suffix("/promote") {
                return (Route::Promote, name);
            }
            return match rest.strip_suffix("/faults") {
                Some(name) => (Route::MemberFaults, name),
                None => (Route::Member, rest),
            };
        }
        if let Some(rest) = path.strip_prefix("/v1/faults/") {
            return (Route::Fault, rest);
        }
        let route = match path {
            "/key" => Route::Keys,
            "/v1/kv" => Route::List,
            "/v1/snapshot" => Route::Snapshot,
            "/status" => Route::Status,
            "/join" => Route::Join,
            "/v1/members" => Route::Members,
            "/v1/leader" => Route::Leader,
            "/v1/faults" => Route::Faults,
            "/livez" => Route::Livez,
            "/readyz" => Route::Readyz,
            "/metrics" => Route::Metrics,
            "/v1/events" => Route::Events,
            "/v1/observation" => Route::Observation,
            "/v1/cluster" => Route::Cluster,
            "/openapi.json" => Route::OpenApi,
            "/" => Route::Home,
            _ => Route::Unknown,
        };
        (route, "")
    }

    /// The route as documentation and metrics name it.
    pub(crate) fn pattern(self) -> &'static str {
        match self {
            Route::Keys => "/key",
            Route::Key => "/key/{key}",
            Route::Kv => "/v1/kv/{key}",
            Route::List => "/v1/kv",
            Route::Snapshot => "/v1/snapshot",
            Route::Writes => "/v1/writes/{term}-{log_index}",
            Route::Status => "/status",
            Route::Join => "/join",
            Route::Members => "/v1/members",
            Route::Member => "/v1/members/{name}",
            Route::Promote => "/v1/members/{name}/promote",
            Route::MemberFaults => "/v1/members/{name}/faults",
            Route::Leader => "/v1/leader",
            Route::Faults => "/v1/faults",
            Route::Fault => "/v1/faults/{id}",
            Route::Livez => "/livez",
            Route::Readyz => "/readyz",
            Route::Metrics => "/metrics",
            Route::Events => "/v1/events",
            Route::Observation => "/v1/observation",
            Route::Cluster => "/v1/cluster",
            Route::OpenApi => "/openapi.json",
            Route::Home => "/",
            Route::Unknown => "unknown",
        }
    }

    /// The value of `Allow`.
    pub(crate) fn allow(self) -> &'static str {
        match self {
            Route::Keys | Route::Join | Route::Leader | Route::Promote => "POST",
            Route::Member | Route::Fault => "DELETE",
            Route::Faults | Route::MemberFaults => "GET, HEAD, POST, DELETE",
            Route::Key => "GET, HEAD, DELETE",
            Route::Kv => "GET, HEAD, PUT, DELETE",
            Route::List
            | Route::Snapshot
            | Route::Writes
            | Route::Status
            | Route::Members
            | Route::Livez
            | Route::Readyz
            | Route::Metrics
            | Route::Events
            | Route::Observation
            | Route::Cluster
            | Route::OpenApi
            | Route::Home => "GET, HEAD",
            Route::Unknown => "",
        }
    }
}

/// The methods that the contract knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Head,
    Put,
    Post,
    Delete,
    Other,
}

impl Verb {
    /// Every verb, in the order of its discriminant.
    pub(crate) const ALL: [Verb; 6] =
        [Verb::Get, Verb::Head, Verb::Put, Verb::Post, Verb::Delete, Verb::Other];

    pub(crate) fn of(method: &Method) -> Verb {
        match *method {
            Method::GET => Verb::Get,
            Method::HEAD => Verb::Head,
            Method::PUT => Verb::Put,
            Method::POST => Verb::Post,
            Method::DELETE => Verb::Delete,
            _ => Verb::Other,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "GET",
            Verb::Head => "HEAD",
            Verb::Put => "PUT",
            Verb::Post => "POST",
            Verb::Delete => "DELETE",
            Verb::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path names one route by its raw bytes; a trailing slash belongs to a key or to nothing.
    #[test]
    fn finds_routes() {
        assert_eq!(Route::find("/key"), (Route::Keys, ""));
        assert_eq!(Route::find("/key/"), (Route::Key, ""));
        assert_eq!(Route::find("/key/a%2Fb/"), (Route::Key, "a%2Fb/"));
        assert_eq!(Route::find("/v1/kv//"), (Route::Kv, "/"));
        assert_eq!(Route::find("/v1/kv"), (Route::List, ""));
        assert_eq!(Route::find("/v1/kv/"), (Route::Kv, ""));
        assert_eq!(Route::find("/v1/faults"), (Route::Faults, ""));
        assert_eq!(Route::find("/v1/faults/7"), (Route::Fault, "7"));
        assert_eq!(Route::find("/v1/snapshot"), (Route::Snapshot, ""));
        assert_eq!(Route::find("/v1/events"), (Route::Events, ""));
        assert_eq!(Route::find("/v1/writes/3-17"), (Route::Writes, "3-17"));
        assert_eq!(Route::find("/v1/members/n.1"), (Route::Member, "n.1"));
        assert_eq!(Route::find("/v1/members/promote"), (Route::Member, "promote"));
        assert_eq!(Route::find("/v1/members/n.1/promote"), (Route::Promote, "n.1"));
        assert_eq!(Route::find("/v1/members/n.1/faults"), (Route::MemberFaults, "n.1"));
        assert_eq!(Route::find("/v1/cluster"), (Route::Cluster, ""));
        assert_eq!(Route::find("/v1/members/a/b"), (Route::Member, "a/b"));
        for unknown in ["", "*", "/status/", "/v1", "/v1/fault", "//key", "/KEY", "/k%65y/a"] {
            assert_eq!(Route::find(unknown).0, Route::Unknown, "{unknown}");
        }
    }

    /// The tables of names are in the order of the discriminants, which metrics index by.
    #[test]
    fn tables_are_in_order() {
        assert!(Route::ALL.iter().enumerate().all(|(i, route)| *route as usize == i));
        assert!(Verb::ALL.iter().enumerate().all(|(i, verb)| *verb as usize == i));
    }
}
