//! The landing page: what this is and where to look.

/// The page. A node's name holds letters, digits, `-`, `_` and `.`, so it needs no escaping.
pub(crate) fn home(node_name: &str) -> String {
    PAGE.replace("{node}", node_name)
}

const PAGE: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>VaultDB {node}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 42rem; margin: 3rem auto; padding: 0 1rem; }
pre { background: #8882; padding: .75rem; overflow-x: auto; }
</style>
</head>
<body>
<h1>VaultDB</h1>
<p>This is node <strong>{node}</strong> of a replicated key-value store.</p>
<ul>
<li><a href="/status">/status</a>: the cluster as this node sees it</li>
<li><a href="/metrics">/metrics</a>: for Prometheus</li>
<li><a href="/livez?verbose">/livez</a> and <a href="/readyz?verbose">/readyz</a>: health checks</li>
</ul>
<pre>curl -XPOST localhost:11000/key -d '{"user1": "batman"}'
curl -XGET localhost:11000/key/user1</pre>
</body>
</html>
"#;
