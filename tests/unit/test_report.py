"""What people see of a backtest or a run says what the summary says, escapes it, and needs nothing from elsewhere."""

import copy
import itertools
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kaizen import report, svg

FIXTURES = Path(__file__).parent / "fixtures"
HOSTILE = "<script>alert('x')</script> & \"co\""


@pytest.fixture
def summary():
    return json.loads((FIXTURES / "backtest_summary.json").read_text(encoding="utf-8"))


def page(summary):
    return ElementTree.fromstring(report.html(summary))


def words(element):
    return " ".join(element.itertext())


def section(summary, title):
    (found,) = [each for each in page(summary).iter("section") if each.findtext("h2") == title]
    return found


def with_class(element, name):
    return [each for each in element.iter() if name in each.get("class", "").split()]


def test_table_is_the_golden_file(summary):
    assert report.table(summary) == (FIXTURES / "backtest_table.txt").read_text(encoding="utf-8")


def test_table_fits_140_columns_whatever_is_told(summary):
    summary["metric"] = "a_metric_with_a_rather_long_name"
    summary["checks"][0]["name"] = "check " * 60
    summary.update(dag_runs={"success": 1}, time={f"stage {i}": 1.0 for i in range(60)})
    for month in summary["months"]:
        month.update(retrain=False, suppressed="", reason="word " * 80, drifted=["feature" * 20, "other"])
    assert max(map(len, report.table(summary).splitlines())) <= report.TERMINAL


def test_table_columns_line_up(summary):
    lines = report.table(summary).splitlines()
    end = lines[3].index("quarantined") + len("quarantined")
    rows = [line for line in lines if re.match(r"2013-\d\d ", line)]
    assert len(rows) == 10
    assert all(row[end - 1].isdigit() and row[end] == " " for row in rows)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"retrain": True, "causes": ["decay", "schedule"]}, "retrain: decay, schedule"),
        ({"retrain": False, "suppressed": "budget", "gate": None}, "held back: budget"),
        ({"retrain": False, "suppressed": "", "reason": "nothing found", "gate": None}, "no: nothing found"),
        ({"gate": "refused", "champion": 7, "champion_after": 7}, "7 (refused)"),
        ({"gate": "promoted", "champion": 7, "champion_after": 8}, "7 → 8"),
        ({"gate": None, "champion": 7, "champion_after": 7}, "-  7"),
        ({"drift": "unknown", "drifted": []}, "unknown"),
        ({"drift": "alarm", "drifted": ["a", "b", "c"]}, "alarm: a +2"),
        ({"value_loop": None}, "unknown"),
    ],
)
def test_table_tells_each_decision(summary, change, told):
    summary["months"] = [{**summary["months"][0], "drift": "ok", "drifted": [], **change}]
    (row,) = [line for line in report.table(summary).splitlines() if line.startswith("2013-03")]
    assert told in row


def test_gain_of_a_promotion_that_nobody_can_know_yet_is_unknown_and_of_a_refusal_is_none(summary):
    promoted = {**summary["months"][0], "gate": "promoted", "gain_realised": None}
    refused = {**promoted, "gate": "refused"}
    rows = [
        next(line for line in report.table({**summary, "months": [month]}).splitlines() if line.startswith("2013"))
        for month in (promoted, refused)
    ]
    assert "unknown" in rows[0]
    assert "unknown" not in rows[1]


def test_a_failed_check_is_told_everywhere(summary):
    assert "FAILED  seconds for the whole replay" in report.table(summary)
    assert "FAILED: seconds for the whole replay" in words(with_class(page(summary), "numbers")[0])
    assert [each.text for each in with_class(section(summary, "Checks"), "bad")] == ["FAILED"]


def test_every_month_number_and_reason_is_on_the_page(summary):
    shown = words(section(summary, "Every partition"))
    for month in summary["months"]:
        facts = [month["partition"], f"{month['rows']:,}", f"{month['labelled']:,}", f"{month['quarantined']:,}"]
        facts += [f"{month[key]:.3f}" for key in ("value_loop", "value_static")]
        gains = [month[key] for key in ("gain_seen", "gain_seen_low", "gain_realised")]
        facts += [f"{gain:+.3f}" for gain in gains if gain is not None]
        facts += [month["reason"], month["performance"], *month["drifted"], *month["gate_reasons"]]
        assert [fact for fact in facts if fact not in shown] == []


def test_headline_has_the_difference_with_its_interval(summary):
    shown = words(with_class(page(summary), "numbers")[0])
    for fact in ("+0.032", "+0.026 to +0.039 at 95% confidence", "0.699", "0.667", "of 8 retrains", "+0.019", "4 of 5"):
        assert fact in shown


def test_drift_map_has_a_cell_per_loud_feature_and_month_and_counts_the_quiet_ones(summary):
    drift = section(summary, "Drift")
    told = [title.text for title in drift.iter("title")]
    loud = [
        name
        for name in summary["months"][0]["features"]
        if any((month["features"][name]["psi"] or 0) >= 0.1 for month in summary["months"])
    ]
    assert 0 < len(loud) < 16
    for month in summary["months"]:
        for name in loud:
            fact = month["features"][name]
            psi = "unknown" if fact["psi"] is None else f"{fact['psi']:.3f}"
            assert f"{name}, {month['partition']}: PSI {psi}, {fact['status']}" in told
    assert len(told) == len(loud) * 10
    assert f"{16 - len(loud)} more never reach 0.1" in words(drift)
    assert "carrier (0.04)" in words(drift)


def test_drift_map_frames_alarms_and_no_others(summary):
    loud = svg.loud_features(summary["months"])
    alarms = sum(m["features"][name]["status"] == "alarm" for m in summary["months"] for name in loud)
    in_key = 1
    assert len(with_class(section(summary, "Drift"), "alarm")) == alarms + in_key


def test_a_feature_that_is_never_known_is_shown_as_unknown_not_as_quiet(summary):
    for month in summary["months"]:
        month["features"] = {"altitude": {"psi": None, "status": "unknown"}}
    drift = section(summary, "Drift")
    assert [each.text for each in drift.iter("text")].count("?") == 10
    assert "never reach" not in words(drift)


def test_narrow_columns_still_show_what_is_unknown(summary):
    month = summary["months"][5]
    summary["months"] = [{**month, "partition": f"2013-W{week}"} for week in range(10, 50)]
    shown = [each.text for each in section(summary, "Drift").iter("text")]
    assert shown.count("?") == 40
    assert "0.12" not in shown


def test_quiet_data_needs_no_drift_map(summary):
    summary["months"] = summary["shuffled"]["months"]
    drift = section(summary, "Drift")
    assert list(drift.iter("svg")) == []
    assert "16 more never reach 0.1" in words(drift)


def test_timeline_has_a_bar_per_service_and_a_mark_per_candidate(summary):
    champions = section(summary, "Champions")
    told = [title.text for title in champions.iter("title")]
    assert "champion 4 served 2013-07 to 2013-09" in told
    assert sum(line.startswith("champion ") for line in told) == 6
    assert sum("candidate promoted" in line for line in told) == 5
    assert sum("candidate refused" in line for line in told) == 3
    assert any("AUC of carrier EV falls by 0.034" in line for line in told)


def test_timeline_shows_a_champion_that_came_back_twice(summary):
    summary["months"][9]["champion"] = 2
    told = [title.text for title in section(summary, "Champions").iter("title")]
    assert "champion 2 served 2013-04 to 2013-04" in told
    assert "champion 2 served 2013-12 to 2013-12" in told


def test_gains_are_drawn_where_they_are(summary):
    (picture,) = section(summary, "What the gate saw and what came true").iter("svg")
    in_key = 1
    seen = [float(ring.get("cx")) for ring in with_class(picture, "seen")][in_key:]
    expected = [month["gain_seen"] for month in summary["months"] if month["gain_seen"] is not None]
    per_unit = (max(seen) - min(seen)) / (max(expected) - min(expected))
    assert len(seen) == 8
    for x, gain in zip(seen, expected, strict=True):
        assert x == pytest.approx(min(seen) + (gain - min(expected)) * per_unit, abs=0.3)
    assert len(with_class(picture, "fill-loop")) == 5 + in_key


def test_plot_has_a_point_per_value_in_the_right_place(summary):
    picture = ElementTree.fromstring(report.plot_auc(summary))
    for name in ("loop", "static"):
        values = [month[f"value_{name}"] for month in summary["months"]]
        heights = [-float(dot.get("cy")) for dot in with_class(picture, name) if "dot" in dot.get("class")]
        assert sorted(range(10), key=values.__getitem__) == sorted(range(10), key=heights.__getitem__)
    assert len(with_class(picture, "change")) == 5


def test_a_line_breaks_where_nothing_is_known(summary):
    summary["months"][4]["value_loop"] = None
    picture = ElementTree.fromstring(report.plot_auc(summary))
    lines = [each for each in with_class(picture, "line") if "loop" in each.get("class")]
    assert [line.get("d").count("L") for line in lines] == [3, 4]
    assert "2013-07: AUC unknown by champion 4, 0.676 never retrained" in words(picture)


def test_the_names_of_the_lines_never_touch(summary):
    for month in summary["months"]:
        month["value_loop"] = month["value_static"] + 0.0001
    picture = ElementTree.fromstring(report.plot_auc(summary))
    (above,), (below,) = (
        [float(each.get("y")) for each in picture.iter() if each.text == name and "strong" in each.get("class", "")]
        for name in ("with the loop", "never retrained")
    )
    assert below - above >= 40


def test_the_axis_says_which_way_is_better(summary):
    summary.update(metric="log_loss", higher_is_better=False)
    shown = words(ElementTree.fromstring(report.plot_auc(summary)))
    assert "log loss, lower is better" in shown
    assert "AUC" not in shown


def test_unknown_numbers_read_unknown(summary):
    empty = ("mean_auc_loop", "mean_auc_static", "difference", "difference_interval", "gain_seen", "gain_realised")
    summary.update(dict.fromkeys(empty), shuffled=None)
    summary["checks"][0].update(value=None)
    for month in summary["months"]:
        month.update(value_loop=None, value_static=None, gain_seen_low=None, performance="unknown", drift="unknown")
    shown = words(page(summary))
    assert "no labels yet" in shown
    assert "interval unknown" in shown
    assert "It was not run." in shown
    assert "None" not in shown + report.table(summary) + report.plot_auc(summary)


def test_an_empty_backtest_is_still_a_page(summary):
    summary.update(months=[], checks=[], shuffled=None)
    assert "0 partitions" in words(page(summary))
    assert "0 partitions" in report.table(summary)
    assert "0 partitions" in report.plot_auc(summary)


def test_shuffled_replay_is_told_month_by_month(summary):
    shown = words(section(summary, "The shuffled replay"))
    assert "retrained 0 times (20.1 s)" in shown
    assert all(month["partition"] in shown for month in summary["shuffled"]["months"])


def test_a_run_is_told_with_its_dag_runs_and_where_the_time_went(summary):
    del summary["shuffled"], summary["checks"]
    summary.update(dag_runs={"success": 22, "failed": 1}, time={"train": 31.25, "evaluate": 4.0, "score": 40.5})
    runs, spent = "DAG runs: 1 failed, 22 success", "Time: score 40.5 s, train 31.2 s, evaluate 4.0 s"
    lines = report.table(summary).splitlines()
    assert lines[0].startswith("Run of nyc/flights: ")
    assert lines[-3:] == ["", runs, spent]
    assert [each.text for each in section(summary, "How it ran").iter("p")] == [runs, spent]
    shown = words(page(summary)) + report.table(summary)
    assert [word for word in ("Backtest", "huffled", "hecks", "check") if word in shown] == []


def test_of_a_backtest_nothing_is_told_about_dag_runs(summary):
    assert "DAG runs" not in report.table(summary)
    assert "How it ran" not in words(page(summary))


@pytest.mark.parametrize("extra", [{"dag_runs": {}, "time": {}}, {"time": None}])
def test_what_nobody_counted_is_not_told(summary, extra):
    summary.update(extra)
    assert "How it ran" not in words(page(summary))
    assert "limit" in report.table(summary)


def test_everything_that_comes_from_outside_is_escaped(summary):
    summary.update(loop=HOSTILE, spec=HOSTILE, metric=HOSTILE, dag_runs={HOSTILE: 1}, time={HOSTILE: 1.0})
    summary["checks"][0].update(name=HOSTILE, value=HOSTILE)
    for month in [*summary["months"], *summary["shuffled"]["months"]]:
        month.update(drifted=[HOSTILE], reason=HOSTILE, gate_reasons=[HOSTILE], causes=[HOSTILE])
        month["features"][HOSTILE] = {"psi": 2.0, "status": "alarm"}
        month["partition"] = f"{month['partition']}{HOSTILE}"
    told = page(summary)
    assert "<script" not in report.html(summary)
    assert "<script" not in report.plot_auc(summary)
    assert list(told.iter("script")) == []
    assert f"{HOSTILE}, 2013-03{HOSTILE}: PSI 2.000, alarm" in [title.text for title in told.iter("title")]
    ElementTree.fromstring(report.plot_auc(summary))


def test_nothing_is_loaded_from_elsewhere(summary):
    namespace = 'xmlns="http://www.w3.org/2000/svg"'
    plot = report.plot_auc(summary)
    assert plot.count(namespace) == 1
    for document in (report.html(summary), plot.replace(namespace, "")):
        assert re.findall(r"http|src=|href|url\(|@import|<script|<link", document) == []


def test_same_summary_same_bytes(summary):
    again = copy.deepcopy(summary)
    for month in again["months"]:
        month["features"] = dict(reversed(month["features"].items()))
    for view in (report.table, report.html, report.plot_auc):
        assert view(summary) == view(again)


def test_months_have_short_names_and_a_year_where_it_changes(summary):
    months = [{"partition": partition} for partition in ("2012-11", "2012-12", "2013-01")]
    texts = re.findall(r">([^<]*)<", svg.Columns(months, 0, 300).labels(10))
    assert [each for each in texts if each] == ["Nov", "2012", "Dec", "Jan", "2013"]


def test_labels_are_thinned_out_rather_than_overlapping():
    months = [{"partition": f"2013-03-{day:02d}"} for day in range(1, 32)]
    columns = svg.Columns(months, 0, 600)
    places = [float(x) for x, name in re.findall(r'<text x="([\d.]+)"[^>]*>([^<]*)<', columns.labels(10)) if name]
    assert 2 < len(places) < 31
    assert min(b - a for a, b in itertools.pairwise(places)) >= 80


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.64, 0.721, [0.64, 0.66, 0.68, 0.7, 0.72, 0.74]),
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-3.0, 40.0, [-10.0, 0.0, 10.0, 20.0, 30.0, 40.0]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low, high, expected):
    assert svg.ticks(low, high) == expected


@pytest.mark.parametrize("value", [0.0, 0.5, -7.0, 1e-9, 12345.0])
def test_ticks_of_a_single_value_still_make_a_scale(value):
    marks = svg.ticks(value, value)
    assert marks[0] <= value <= marks[-1]
    assert marks[0] < marks[-1]


def test_markup_escapes_what_is_not_markup():
    assert svg.tag("b", "<i>", title='"') == '<b title="&quot;">&lt;i&gt;</b>'
    assert svg.tag("b", svg.tag("i", 1.0)) == "<b><i>1</i></b>"
    assert svg.tag("br") + "<" == "<br />&lt;"
