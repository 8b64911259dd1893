//! Query parameters.
//!
//! A parameter of the contract is honoured in full or refused; others are ignored.

use std::borrow::Cow;
use std::time::Duration;

use vaultdb_kv::limits::REQUEST_TIMEOUT_MS_MAX;
use vaultdb_kv::units::parse_duration;
use vaultdb_kv::{BadInput, Consistency, Freshness, Revision};

use crate::key_path::percent_decode;
use crate::problem::{Code, Problem};

/// Smallest `?timeout=`.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);
/// Largest `?timeout=`.
const TIMEOUT_MAX: Duration = Duration::from_millis(REQUEST_TIMEOUT_MS_MAX);

/// Smallest `?max_staleness=`.
const STALENESS_MIN: Duration = Duration::from_millis(1);

/// When a write is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ack {
    /// Once it is committed by a majority and applied.
    Majority,
    /// Once the leader has it on its own disk.
    Leader,
}

/// What a request asked for besides its route, each at most once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Params {
    pub(crate) consistency: Option<Consistency>,
    pub(crate) max_staleness: Option<Duration>,
    pub(crate) min_revision: Option<Revision>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) redirect: Option<bool>,
    pub(crate) ack: Option<Ack>,
    pub(crate) verbose: bool,
}

impl Params {
    /// # Errors
    /// 400 `invalid_parameter` for a malformed or repeated parameter.
    pub(crate) fn parse(query: Option<&str>) -> Result<Self, Problem> {
        let mut params = Params::default();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            params.take(&decode(name)?, value)?;
        }
        Ok(params)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), Problem> {
        match name {
            "consistency" => once(&mut self.consistency, "consistency", parse_consistency(&decode(value)?)?),
            "timeout" => once(&mut self.timeout, "timeout", parse_timeout(&decode(value)?)?),
            "redirect" => once(&mut self.redirect, "redirect", parse_bool("redirect", &decode(value)?)?),
            "verbose" => {
                self.verbose = true;
                Ok(())
            }
            "ack" => once(&mut self.ack, "ack", parse_ack(&decode(value)?)?),
            "max_staleness" => {
                once(&mut self.max_staleness, "max_staleness", parse_staleness(&decode(value)?)?)
            }
            "min_revision" => once(&mut self.min_revision, "min_revision", parse_revision(&decode(value)?)?),
            _ => Ok(()),
        }
    }
}

impl Params {
    /// How fresh the state must be that a read sees. A bound on its staleness asks for `stale`, where the
    /// level is not given.
    ///
    /// # Errors
    /// 400 `invalid_parameter` for a bound on the staleness of a level that has none.
    pub(crate) fn freshness(&self, default: Consistency) -> Result<Freshness, Problem> {
        let implied = if self.max_staleness.is_some() { Consistency::Stale } else { default };
        let consistency = self.consistency.unwrap_or(implied);
        if self.max_staleness.is_some() && consistency != Consistency::Stale {
            let reason = format!("goes with consistency=stale; a {consistency} read is never stale");
            return Err(refuse("max_staleness", reason));
        }
        let Params { max_staleness, min_revision, .. } = *self;
        Ok(Freshness { consistency, max_staleness, min_revision })
    }
}

pub(crate) fn once<T>(slot: &mut Option<T>, name: &'static str, value: T) -> Result<(), Problem> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(refuse(name, "given more than once")),
    }
}

pub(crate) fn refuse(name: &'static str, reason: impl Into<String>) -> Problem {
    BadInput::Parameter { name, reason: reason.into() }.into()
}

pub(crate) fn decode(raw: &str) -> Result<Cow<'_, str>, Problem> {
    if !raw.contains('%') {
        return Ok(Cow::Borrowed(raw));
    }
    let malformed = || Problem::new(Code::InvalidParameter, "the query holds a malformed percent-encoding");
    let bytes = percent_decode(raw).map_err(|_| malformed())?;
    String::from_utf8(bytes.into()).map(Cow::Owned).map_err(|_| malformed())
}

fn parse_consistency(text: &str) -> Result<Consistency, Problem> {
    Ok(text.parse::<Consistency>()?)
}

fn parse_timeout(text: &str) -> Result<Duration, Problem> {
    let timeout = parse_duration(text).map_err(|reason| refuse("timeout", reason))?;
    if (TIMEOUT_MIN..=TIMEOUT_MAX).contains(&timeout) {
        Ok(timeout)
    } else {
        Err(refuse("timeout", format!("must be from 1ms to {}s", TIMEOUT_MAX.as_secs())))
    }
}

fn parse_staleness(text: &str) -> Result<Duration, Problem> {
    let staleness = parse_duration(text).map_err(|reason| refuse("max_staleness", reason))?;
    if staleness < STALENESS_MIN {
        return Err(refuse("max_staleness", "must be at least 1ms"));
    }
    Ok(staleness)
}

fn parse_revision(text: &str) -> Result<Revision, Problem> {
    let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| refuse("min_revision", "must be a revision: a whole number"))
}

fn parse_ack(text: &str) -> Result<Ack, Problem> {
    match text {
        "majority" => Ok(Ack::Majority),
        "leader" => Ok(Ack::Leader),
        other => Err(refuse("ack", format!("\"{}\" is not one of majority, leader", other.escape_debug()))),
    }
}

pub(crate) fn parse_bool(name: &'static str, text: &str) -> Result<bool, Problem> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(refuse(name, "must be true or false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known parameters are read, unknown ones ignored.
    #[test]
    fn reads_parameters() {
        let params =
            Params::parse(Some("x=1&consistency=stale&timeout=250ms&redirect=true&ack=majority&&verbose"))
                .expect("all valid");
        assert_eq!(params.consistency, Some(Consistency::Stale));
        assert_eq!(params.timeout, Some(Duration::from_millis(250)));
        assert_eq!(params.redirect, Some(true));
        assert_eq!(params.ack, Some(Ack::Majority));
        assert!(params.verbose);
        assert_eq!(Params::parse(Some("ack=leader")).expect("valid").ack, Some(Ack::Leader));
        assert_eq!(
            Params::parse(Some("%74imeout=%35s")).expect("encoded").timeout,
            Some(Duration::from_secs(5))
        );
        assert_eq!(Params::parse(None).expect("none"), Params::default());
    }

    /// A bound on staleness asks for a stale read; other levels have none. A least revision goes with all.
    #[test]
    fn freshness_of_a_read() {
        let of =
            |query: &str| Params::parse(Some(query)).and_then(|p| p.freshness(Consistency::Linearizable));
        let stale = Freshness::from(Consistency::Stale);
        let half = Some(Duration::from_millis(500));
        assert_eq!(of("").expect("the default"), Freshness::default());
        assert_eq!(of("consistency=stale").expect("stale"), stale);
        let bounded = Freshness { max_staleness: half, ..stale };
        assert_eq!(of("consistency=stale&max_staleness=500ms").expect("bounded"), bounded);
        assert_eq!(of("max_staleness=500ms").expect("implied"), bounded);
        let lease = Freshness { min_revision: Some(7), ..Consistency::Lease.into() };
        assert_eq!(of("min_revision=7&consistency=lease").expect("lease"), lease);
        for level in ["linearizable", "lease"] {
            let problem = of(&format!("consistency={level}&max_staleness=1s")).expect_err("never stale");
            assert!(problem.detail.contains("consistency=stale"), "{}", problem.detail);
        }
    }

    /// What is malformed, out of bounds or repeated is refused and named.
    #[test]
    fn refuses_parameters() {
        for (query, named) in [
            ("consistency=strong", "consistency"),
            ("consistency", "consistency"),
            ("timeout=5", "timeout"),
            ("timeout=0ms", "timeout"),
            ("timeout=999us", "timeout"),
            ("timeout=61s", "timeout"),
            ("timeout=1s&timeout=1s", "more than once"),
            ("redirect=yes", "redirect"),
            ("redirect", "redirect"),
            ("ack=all", "ack"),
            ("ack=leader&ack=leader", "more than once"),
            ("max_staleness=1", "max_staleness"),
            ("max_staleness=0ms", "max_staleness"),
            ("max_staleness=1s&max_staleness=1s", "more than once"),
            ("min_revision=-1", "min_revision"),
            ("min_revision=+1", "min_revision"),
            ("min_revision=", "min_revision"),
            ("min_revision=18446744073709551616", "min_revision"),
            ("timeout=%zz", "percent"),
        ] {
            let problem = Params::parse(Some(query)).expect_err(query);
            assert_eq!(problem.code, Code::InvalidParameter);
            assert!(problem.detail.contains(named), "{query}: {}", problem.detail);
        }
    }
}
