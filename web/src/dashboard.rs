//! `GET /`: the dashboard, one document without anything from elsewhere.
//!
//! Its files are under `dashboard/`. Everything that changes comes over `/v1/cluster`; only the node's name is
//! put in here.

use std::sync::LazyLock;

use actix_web::http::header::HeaderValue;
use base64::prelude::{Engine as _, BASE64_STANDARD};
use sha2::{Digest, Sha256};

const HTML: &str = include_str!("dashboard/index.html");
const STYLE: &str = include_str!("dashboard/style.css");
const SCRIPT: &str = include_str!("dashboard/app.js");

/// The page with its style and script in place, and the policy that allows these and nothing else.
static DOCUMENT: LazyLock<(String, HeaderValue)> = LazyLock::new(|| {
    let page = HTML.replace("/*style*/", STYLE).replace("/*script*/", SCRIPT);
    let policy = format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    );
    (page, HeaderValue::from_str(&policy).expect("hashes and words are visible characters"))
});

/// The page of the named node.
pub(crate) fn page(node_name: &str) -> String {
    DOCUMENT.0.replace("{{node}}", &escape(node_name))
}

/// The value of `Content-Security-Policy`.
pub(crate) fn policy() -> HeaderValue {
    DOCUMENT.1.clone()
}

/// What a policy calls an inline element by (CSP level 3, section 2.3.1).
fn hash(content: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(content)))
}

fn escape(text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    escaped.replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name cannot become a part of the page, and the page names nothing that lies elsewhere.
    #[test]
    fn page_stands_alone() {
        let page = page("<b onclick='x'>\"&");
        assert!(page.contains("&lt;b onclick=&#39;x&#39;&gt;&quot;&amp;") && !page.contains("<b onclick"));
        assert!(!page.contains("{{") && !page.contains("/*style*/") && !page.contains("/*script*/"));
        for elsewhere in ["src=", "url(", "@import", "https://", "innerHTML", "insertAdjacentHTML", "eval("] {
            assert!(!page.contains(elsewhere), "{elsewhere}");
        }
    }

    /// The hash of a known text, as browsers compute it.
    #[test]
    fn hashes_are_those_of_browsers() {
        let known = "sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng=";
        assert_eq!(hash("alert('Hello, world.');"), known);
    }
}
