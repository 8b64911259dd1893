"""How reports of the generators become cells of Markdown tables."""

import statistics
import subprocess


def way_text(way):
    """How etcd was driven: "json", or how many gRPC connections."""
    if way == "json":
        return "JSON gateway"
    return "gRPC, 1 connection" if way == 1 else f"gRPC, {way} connections"


def middle(reports, field):
    return statistics.median(report[field] for report in reports)


def rate(reports):
    return f"{middle(reports, 'pairs_per_s'):,.0f}"


def latency(reports):
    return f"{middle(reports, 'latency_us_p50') / 1000:.2f} / {middle(reports, 'latency_us_p99') / 1000:.2f}"


def ratios(ours, theirs, field="pairs_per_s"):
    """Of the pair of each round."""
    return [a[field] / max(b[field], 1e-9) for a, b in zip(ours, theirs)]


def spread(each, digits=2):
    """Median, least and greatest."""
    return f"{statistics.median(each):.{digits}f} ({min(each):.{digits}f}–{max(each):.{digits}f})"


def ratio(ours, theirs, field="pairs_per_s"):
    return spread(ratios(ours, theirs, field))


def microseconds(reports, field):
    return f"{middle(reports, field):.0f}"


def failures(reports):
    codes = {}
    for report in reports:
        for code, count in report["errors_by_code"].items():
            codes[code] = codes.get(code, 0) + count
    found = [f"{count} × {code}" for code, count in sorted(codes.items())]
    moved = sum(report["leader_moved"] for report in reports)
    if moved:
        found.append(f"leader moved in {moved} runs")
    return ", ".join(found) or "none"


def table(head, rows):
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def version(binary, *args):
    answer = subprocess.run([binary, *args], capture_output=True, text=True, timeout=10, check=False)
    lines = (answer.stdout or answer.stderr).strip().splitlines()
    return lines[0].replace(" Version:", "") if lines else "unknown"
