"""Prometheus can read what is told, and it counts what happened."""

from prometheus_client.parser import text_string_to_metric_families

from malmoi.serve.metrics import Histogram, Metrics


def numbers(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_page_is_prometheus_own_format():
    metrics = Metrics()
    metrics.status(200)
    metrics.status(200)
    metrics.status(429)
    metrics.first_token.observe(0.02)
    metrics.first_token.observe(100.0)
    found = numbers(metrics.text({"running": 3, "waiting": 2, "blocks": 10, "blocks_free": 4}))
    assert found[("malmoi_http_responses_total", ("code", "200"))] == 2
    assert found[("malmoi_first_token_seconds_bucket", ("le", "0.025"))] == 1
    assert found[("malmoi_first_token_seconds_bucket", ("le", "+Inf"))] == 2
    assert found[("malmoi_cache_blocks_free",)] == 4


def test_buckets_add_up():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    assert histogram.counts == [2, 1, 1] and histogram.sum == 12.0


def test_a_server_counts(client):
    before = numbers(client.get("/metrics").text)
    client.post("/v1/completions", json={"prompt": "hello", "max_tokens": 3})
    after = numbers(client.get("/metrics").text)
    grown = {name[0]: after[name] - before.get(name, 0) for name in after}
    assert grown["malmoi_generated_tokens_total"] == 3 and grown["malmoi_requests_finished_total"] == 1
    assert grown["malmoi_energy_joules_total"] > 0


def test_the_usual_time_of_an_answer():
    metrics = Metrics()
    assert metrics.usual_seconds() == 1.0
    metrics.whole_answer.observe(4.0)
    assert metrics.usual_seconds() == 4.0
