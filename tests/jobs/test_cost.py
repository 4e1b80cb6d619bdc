"""What a plan costs, and the cluster that a deadline asks for."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from jobs.cli import app
from jobs.cost import (
    CostError,
    Rates,
    check_cost,
    described,
    described_size,
    estimated,
    parse_duration_s,
    size_cluster,
)
from jobs.plan import result_digest_of
from pipeline.config import ClusterConfig, ConfigError, PriceConfig, load_config
from pipeline.tables.store import Store

GPU = Rates(decode_cpu_s=0.4, encode_cpu_s=0.05, encode_gpu_s=0.02, measured="run r on cuda")
CPU = Rates(decode_cpu_s=0.4, encode_cpu_s=0.6, encode_gpu_s=0.0, measured="run r on cpu")
PRICES = PriceConfig(cpu_hour=0.05, gpu_hour=2.0, currency="USD")
NODES = ClusterConfig.model_validate(
    {"cpu_node": {"cpus": 16}, "gpu_node": {"gpus": 2, "cpus": 8}, "start_s": 300}
)
SETTINGS = ["prices={cpu_hour: 0.05, gpu_hour: 2, currency: USD}"]
rates = st.builds(
    Rates,
    decode_cpu_s=st.floats(1e-3, 10),
    encode_cpu_s=st.floats(0, 10),
    encode_gpu_s=st.one_of(st.just(0.0), st.floats(1e-4, 5)),
    measured=st.just("m"),
)
hours = st.floats(0.01, 1e6)
clusters = st.builds(
    lambda cpus, gpus, gpu_cpus, start_s: ClusterConfig.model_validate(
        {"cpu_node": {"cpus": cpus}, "gpu_node": {"gpus": gpus, "cpus": gpu_cpus}, "start_s": start_s}
    ),
    st.integers(1, 128),
    st.integers(1, 8),
    st.integers(1, 128),
    st.floats(0, 1800),
)


def work_node_s(video_s, rates, cluster):
    """Seconds of one node of each kind, by the definitions: decode on CPU nodes, encode on GPU nodes."""
    if not rates.encode_gpu_s:
        return video_s * (rates.decode_cpu_s + rates.encode_cpu_s) / cluster.cpu_node.cpus, 0.0
    encode = max(
        video_s * rates.encode_gpu_s / cluster.gpu_node.gpus,
        video_s * rates.encode_cpu_s / cluster.gpu_node.cpus,
    )
    return video_s * rates.decode_cpu_s / cluster.cpu_node.cpus, encode


@settings(deadline=None)
@given(hours, rates, clusters, st.floats(1801, 1e6))
def test_a_cluster_meets_its_deadline_and_one_node_less_would_not(hours, rates, cluster, deadline_s):
    size = size_cluster(hours * 3600, rates, cluster, PRICES, deadline_s)
    assert size.finish_h * 3600 <= deadline_s * (1 + 1e-6)
    work = work_node_s(hours * 3600, rates, cluster)
    for node_s, pool in zip(work, (size.cpu_nodes, size.gpu_nodes), strict=True):
        assert (pool.n_nodes > 0) == (node_s > 0)
        if pool.n_nodes > 1:
            assert cluster.start_s + node_s / (pool.n_nodes - 1) > deadline_s * (1 - 1e-6)
        for busy in (pool.cpu_utilisation, pool.gpu_utilisation or 0.0):
            assert 0 <= busy <= 1 + 1e-9


@settings(deadline=None)
@given(hours, st.floats(1, 10), rates, clusters, st.floats(1801, 1e6), st.floats(1, 10))
def test_more_video_takes_more_nodes_and_more_time_fewer(
    hours, more, rates, cluster, deadline_s, longer
):
    def nodes(hours, deadline_s):
        size = size_cluster(hours * 3600, rates, cluster, PRICES, deadline_s)
        return size.cpu_nodes.n_nodes, size.gpu_nodes.n_nodes

    few, many, relaxed = (
        nodes(hours, deadline_s),
        nodes(hours * more, deadline_s),
        nodes(hours, deadline_s * longer),
    )
    assert all(a <= b for a, b in zip(few, many, strict=True))
    assert all(a >= b for a, b in zip(few, relaxed, strict=True))


@settings(deadline=None)
@given(hours, st.floats(1, 100), rates)
def test_cost_grows_with_the_hours(hours, more, rates):
    few, many = (estimated(h * 3600, rates, PRICES) for h in (hours, hours * more))
    assert few.cost <= many.cost
    assert few.cost == pytest.approx(few.cpu_h * 0.05 + few.gpu_h * 2)


def test_a_size_by_hand():
    # 100 h of video: 40 CPU-hours of decoding on 16 CPUs a node, 2 GPU-hours on 2 GPUs a node; work takes 1 h.
    size = size_cluster(360_000, GPU, NODES, PRICES, 3900)
    assert (size.cpu_nodes.n_nodes, size.gpu_nodes.n_nodes) == (3, 1)
    assert size.finish_h == pytest.approx(1 + 1 / 12)
    assert size.cpu_nodes.cpu_utilisation == pytest.approx(40 / 48)
    assert (size.gpu_nodes.gpu_utilisation, size.gpu_nodes.cpu_utilisation) == pytest.approx((1, 5 / 8))
    assert size.cost == pytest.approx((3 * 16 * 0.05 + 8 * 0.05 + 2 * 2) * (1 + 1 / 12))
    assert size.cpus_per_gpu == pytest.approx(22.5)
    text = "\n".join(described_size(size))
    for said in (
        "3 CPU nodes to decode",
        "1 GPU node to encode",
        "22.5 CPUs keep one GPU busy",
        "5 min",
    ):
        assert said in text


def test_where_one_kind_of_node_is_not_to_be_had_the_other_does_both():
    no_cpu_nodes = ClusterConfig.model_validate({"gpu_node": {"gpus": 2, "cpus": 8}, "start_s": 300})
    size = size_cluster(360_000, GPU, no_cpu_nodes, PRICES, 3900)
    assert (size.cpu_nodes.n_nodes, size.gpu_nodes.n_nodes) == (0, 6)  # 45 CPU-hours on 8 CPUs a node
    size = size_cluster(360_000, CPU, NODES, PRICES, 3900)
    assert (size.cpu_nodes.n_nodes, size.gpu_nodes.n_nodes) == (7, 0)  # 100 CPU-hours on 16 CPUs a node
    with pytest.raises(ConfigError, match=r"expected cluster\.gpu_node"):
        size_cluster(1, GPU, ClusterConfig(), PRICES, 3900)
    with pytest.raises(ConfigError, match=r"over before nodes work"):
        size_cluster(1, GPU, NODES, PRICES, 299)


def test_what_is_not_known_is_said_and_how_it_becomes_known():
    no_price = estimated(3600, GPU, PriceConfig(cpu_hour=1.0))
    assert no_price.cost is None
    assert any("prices.gpu_hour" in line for line in described(no_price))
    assert estimated(3600, CPU, PriceConfig(cpu_hour=1.0)).cost == pytest.approx(1.0)
    with pytest.raises(CostError, match=r"not known: no price of a GPU \(prices.gpu_hour\)"):
        check_cost(no_price, 10)
    check_cost(estimated(3600, GPU, PRICES), 10)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("6h", 21_600), ("90m", 5400), ("1d12h", 129_600), ("1.5h", 5400), ("45s", 45)],
)
def test_a_time_is_read_as_a_person_writes_it(text, seconds):
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "6", "h", "-6h", "6x", "0h"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ConfigError, match="expected a time such as 6h"):
        parse_duration_s(text)


def test_prices_and_rates_change_no_result():
    changed = load_config(
        overrides=[
            "prices={cpu_hour: 0.1, gpu_hour: 3, currency: EUR}",
            "rates={decode_s_per_video_s: 1, encode_s_per_video_s: 1, encode_cpu_s_per_video_s: 0}",
            "cluster={cpu_node: {cpus: 4}, gpu_node: {cpus: 4}, start_s: 10}",
            "notify=cat",
            "run.decode_labels={pool: cpu}",
        ]
    )
    assert changed.result_digest("b") == load_config().result_digest("b")


def record(store, name, config, **more):
    """What a run leaves that `plan` reckons by: 100 s of video, 40 s of decoding, 30 s of encoding."""
    told = {
        "run_id": name, "bundle": config.bundle, "result_digest": result_digest_of(config),
        "device": "cpu", "video_s": 100.0, "decode_s": 40.0, "encode_s": 30.0, "encode_cpu_s": 60.0,
        "config": config.model_dump(mode="json"),
    }  # fmt: skip
    store.write_json(f"_runs/{name}.json", told | more)


def plan(video_file, out, *more):
    arguments = ["plan", str(video_file), "--out", str(out), *more]
    for setting in SETTINGS:
        arguments += ["--set", setting]
    return CliRunner().invoke(app, arguments)


def takes(video_file, out, *more):
    done = plan(video_file, out, "--json", *more)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)["takes"]


def test_the_newest_run_of_the_bundle_tells_the_rates(video_file, tmp_path):
    store = Store(str(tmp_path / "t"))
    assert takes(video_file, tmp_path / "t")["cpu_h"] is None
    assert "reeltable tune" in plan(video_file, tmp_path / "t").stdout
    record(
        store, "20260101", load_config(), decode_s=1e6, device=None
    )  # from before devices were noted
    record(
        store,
        "20260102",
        load_config(overrides=["clips.length_s=2", "clips.stride_s=1"]),
        device="cuda",
    )
    other = takes(video_file, tmp_path / "t")  # its clips show each second twice: 50 s of video
    assert other["cpu_h"] * 3600 == pytest.approx(10 * (40 + 60) / 50, rel=0.01)
    assert other["gpu_h"] * 3600 == pytest.approx(10 * 30 / 50, rel=0.01)
    assert "with other settings" in other["rates"]["measured"]
    record(store, "20260103", load_config())
    record(store, "20260104", load_config(), bundle="another", decode_s=1e6)
    found = takes(video_file, tmp_path / "t")
    assert found["cpu_h"] * 3600 == pytest.approx(10 * (40 + 60) / 100, rel=0.01)
    assert found["cost"] == pytest.approx(found["cpu_h"] * 0.05)
    assert found["gpu_h"] == 0
    assert "20260103" in found["rates"]["measured"]
    # One on another device than is asked for tells nothing.
    assert takes(video_file, tmp_path / "t", "--set", "run.device=cuda")["gpu_h"] > 0
    # A model beside the encoders is not in their rates.
    record(store, "20260105", load_config(overrides=["bundle=vlm-endpoint"]))
    beside = takes(video_file, tmp_path / "t", "--set", "bundle=vlm-endpoint")
    assert (beside["cost"], beside["cpu_h"] > 0) == (None, True)
    assert "captions" in beside["unknown"][0]
    # What the config says comes first, where it is of this bundle.
    given = {"decode_s_per_video_s": 1, "encode_s_per_video_s": 1, "encode_cpu_s_per_video_s": 1}
    said = ["--set", f"rates={json.dumps(given)}"]
    assert takes(video_file, tmp_path / "t", *said)["cpu_h"] * 3600 == pytest.approx(20, rel=0.01)
    said = ["--set", f"rates={json.dumps(given | {'bundle': 'another'})}"]
    assert takes(video_file, tmp_path / "t", *said)["cpu_h"] == pytest.approx(found["cpu_h"])


def test_what_would_cost_too_much_is_refused_before_anything_is_done(video_file, tmp_path):
    out = tmp_path / "t"
    unknown = CliRunner().invoke(
        app, ["run", str(video_file), "--out", str(out), "--max-cost", "1", "--set", SETTINGS[0]]
    )
    assert unknown.exit_code == 2
    assert unknown.stderr.splitlines()[-1].startswith(
        "error: --max-cost 1: what it would cost is not known"
    )
    record(Store(str(out)), "20260101", load_config())
    for command in ("run", "plan"):
        arguments = [command, str(video_file), "--out", str(out), "--max-cost", "0.0001"]
        refused = CliRunner().invoke(app, [*arguments, "--set", SETTINGS[0]])
        assert refused.exit_code == 2
        assert "error: --max-cost 0.0001: 10 s of video would cost 0.00014 USD" in refused.stderr
    assert plan(video_file, out, "--max-cost", "1").exit_code == 0
    assert not list((out).rglob("*.parquet"))


def test_a_cluster_is_sized_by_the_command(video_file, tmp_path):
    record(Store(str(tmp_path / "t")), "20260101", load_config())
    sized = [
        "--size-cluster",
        "--deadline",
        "6h",
        "--set",
        "cluster.cpu_node={cpus: 16, price_hour: 0.5}",
    ]
    done = plan(video_file, tmp_path / "t", *sized, "--video-hours", "1000", "--json")
    size = json.loads(done.stdout)["cluster"]
    assert size["cpu_nodes"]["n_nodes"] == 11  # 1000 CPU-hours on 16 × 5.92 h a node
    assert size["cost"] == pytest.approx(11 * 0.5 * size["finish_h"])
    assert (
        "11 CPU nodes to decode and encode"
        in plan(video_file, tmp_path / "t", *sized, "--video-hours", "1000").stdout
    )
    none = plan(video_file, tmp_path / "t", "--size-cluster")
    assert none.exit_code == 2
    assert "expected cluster.cpu_node" in none.stderr
