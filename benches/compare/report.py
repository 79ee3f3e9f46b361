"""Medians, ratios, targets and tables from what the rounds measured."""

from dataclasses import dataclass
from statistics import median

RATIOS = ("cpu_us", "requests_per_second", "p99_us")
MEASURES = (*RATIOS, "user_us", "system_us", "p50_us", "rss_mib")
RIVALS = ("nginx", "haproxy")
NOISY_SPREAD = 0.15


@dataclass(frozen=True)
class Target:
    """`subject`'s measure, as a multiple of a rival's or (`versus` None) as it is, at most."""

    scenario: str
    measure: str
    versus: str | None
    limit: float

    def __str__(self):
        unit = f" x {self.versus}" if self.versus else ""
        return f"{self.scenario} {self.measure} <= {self.limit:g}{unit}"


TARGETS = [
    Target("small64", "cpu_us", "nginx", 1.05),
    Target("small64", "cpu_us", "haproxy", 1.05),
    Target("small64", "p99_us", "haproxy", 1.0),
    Target("k64", "cpu_us", "nginx", 0.95),
    Target("m1", "cpu_us", "nginx", 0.65),
    Target("post16k", "cpu_us", "haproxy", 1.0),
    Target("close", "cpu_us", "nginx", 1.3),
    Target("h2", "cpu_us", "haproxy", 1.0),
    Target("h2", "cpu_us", "nginx", 0.9),
    Target("h2tls", "cpu_us", "haproxy", 1.0),
    Target("h2tls", "cpu_us", "nginx", 0.9),
    Target("tls", "cpu_us", "haproxy", 1.05),
    Target("handshake", "cpu_us", "nginx", 1.0),
    Target("idle", "kib_per_connection", None, 22),
    Target("balance", "difference", None, 1),
]


def summary(rounds):
    """Medians of the valid rounds; `spread` is how far CPU per request ranged, over its median."""
    figures = {measure: median(sample[measure] for sample in rounds) for measure in MEASURES}
    costs = [sample["cpu_us"] for sample in rounds]
    figures["spread"] = (max(costs) - min(costs)) / (figures["cpu_us"] or 1)
    return figures


def ratios(subject_rounds, rival_rounds):
    """Medians of the ratios inside each round: what disturbed a round disturbed both."""
    pairs = [
        (ours, theirs)
        for ours, theirs in zip(subject_rounds, rival_rounds)
        if ours and theirs
    ]
    return {
        measure: median(ours[measure] / (theirs[measure] or 1) for ours, theirs in pairs)
        for measure in RATIOS
        if pairs
    }


def load_result(rounds_by_proxy, subject):
    """`rounds_by_proxy` holds one sample per round, None where the round was invalid."""
    valid = {
        name: kept
        for name, rounds in rounds_by_proxy.items()
        if (kept := [sample for sample in rounds if sample])
    }
    return {
        "medians": {name: summary(rounds) for name, rounds in valid.items()},
        "ratios": {
            rival: found
            for rival in rounds_by_proxy
            if subject in rounds_by_proxy and rival != subject
            and (found := ratios(rounds_by_proxy[subject], rounds_by_proxy[rival]))
        },
        "rounds": rounds_by_proxy,
    }


def load_table(result, subject):
    head = ("proxy", "req/s", "CPU us", "user", "sys", "spread", "P50 us", "P99 us", "RSS MiB")
    rows = [
        (
            name,
            f"{figures['requests_per_second']:.0f}",
            *(f"{figures[key]:.1f}" for key in ("cpu_us", "user_us", "system_us")),
            f"{figures['spread']:.0%}" + ("!" if figures["spread"] > NOISY_SPREAD else ""),
            *(f"{figures[key]:.0f}" for key in ("p50_us", "p99_us")),
            f"{figures['rss_mib']:.1f}",
        )
        for name, figures in result["medians"].items()
    ]
    lines = table(head, rows)
    for rival, found in result["ratios"].items():
        if rival in RIVALS:
            lines.append(
                f"{subject}/{rival}: CPU {found['cpu_us']:.2f}, "
                f"req/s {found['requests_per_second']:.2f}, P99 {found['p99_us']:.2f}"
            )
    return lines


def table(head, rows):
    rows = [head, *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]


def value_of(target, results, subject):
    """The figure that a target limits, or None when the run did not produce it."""
    result = results.get(target.scenario, {})
    if target.versus:
        return result.get("ratios", {}).get(target.versus, {}).get(target.measure)
    return result.get("medians", {}).get(subject, {}).get(target.measure)


def judged(results, subject):
    verdicts = []
    for target in TARGETS:
        value = value_of(target, results, subject)
        verdict = "not run" if value is None else "met" if value <= target.limit else "MISSED"
        verdicts.append({"target": str(target), "value": value, "verdict": verdict})
    return verdicts


def target_table(verdicts, subject):
    rows = [
        (row["target"], "-" if row["value"] is None else f"{row['value']:.2f}", row["verdict"])
        for row in verdicts
    ]
    return table((f"target ({subject})", "value", "verdict"), rows)
