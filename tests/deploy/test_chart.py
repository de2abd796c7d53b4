"""The Helm chart: rendered, held against the schemas of Kubernetes, and against our own commands, settings, ports and paths."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from tests.deploy.conftest import DEPLOY, check_command, check_settings, documents, judged, tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHART = DEPLOY / "helm/bananas"
EVERYTHING = Path(__file__).parent / "every-value.yaml"
LEAST = "image.repository=shop,app=shop:app,redis.url=redis://redis:6379/0,api.tokens.values.viewer=0123456789abcdef0123"
Rendered = list[dict[str, Any]]
Render = "Callable[..., Rendered]"


def of(rendered: Rendered, kind: str, name: str = "") -> dict[str, Any]:
    (found,) = [each for each in rendered if each["kind"] == kind and each["metadata"]["name"].endswith(name)]
    return found


def containers(rendered: Rendered) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each deployment's pod, and its container."""
    for each in rendered:
        if each["kind"] == "Deployment":
            pod = each["spec"]["template"]["spec"]
            (container,) = pod["containers"]
            yield pod, container


@pytest.fixture(scope="module", params=["everything", "least"])
def rendered(request: pytest.FixtureRequest, render: Callable[..., Rendered]) -> Rendered:
    return render(EVERYTHING) if request.param == "everything" else render(LEAST)


def test_helm_finds_nothing_wrong() -> None:
    judged(tool("helm"), "lint", "--strict", str(CHART), "--values", str(EVERYTHING))


def test_what_is_rendered_fits_the_schemas_of_kubernetes(rendered: Rendered) -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    for each in rendered:
        if each["apiVersion"].split("/")[0] not in ("monitoring.coreos.com", "keda.sh"):  # resources of operators: no schema here
            for version in ("1.27", "1.33"):
                validate(each, version, strict=True)


def test_commands_settings_and_times_are_ours(rendered: Rendered) -> None:
    for pod, container in containers(rendered):
        context = check_command(container["args"])
        assert context.params["target"] == "shop:app"
        environment = {each["name"]: each.get("value", "redis://redis") for each in container["env"]}
        settings = check_settings(environment)
        given = context.params.get("shutdown_timeout") or f"{settings.shutdown_timeout}s"
        assert pod["terminationGracePeriodSeconds"] >= float(given.removesuffix("s")) + 10
        names = [each["name"] for each in container["env"]]
        assert len(names) == len(set(names))


def test_probes_and_services_ask_ports_and_paths_that_are_there(rendered: Rendered) -> None:
    for pod, container in containers(rendered):
        ((name, port),) = [(each["name"], each["containerPort"]) for each in container["ports"]]
        words = " ".join(container["args"])
        assert f"--{'port' if name == 'http' else 'health-port'}={port}" in words
        prefix = "/health" if name == "http" else ""
        for probe, what in (("startupProbe", "live"), ("livenessProbe", "live"), ("readinessProbe", "ready")):
            assert container[probe]["httpGet"] == {"path": f"{prefix}/{what}", "port": name}
        mounted = {each["name"] for each in container["volumeMounts"]}
        assert mounted == {each["name"] for each in pod["volumes"]}
    service, api = of(rendered, "Service"), of(rendered, "Deployment", "-api")
    assert service["spec"]["ports"][0]["targetPort"] == "http"
    assert service["spec"]["selector"].items() <= api["spec"]["template"]["metadata"]["labels"].items()


def test_pods_may_little(rendered: Rendered) -> None:
    for pod, container in containers(rendered):
        assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
        assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 10001)
        may = container["securityContext"]
        assert (may["readOnlyRootFilesystem"], may["allowPrivilegeEscalation"], may["capabilities"]) == (True, False, {"drop": ["ALL"]})


def test_selectors_find_the_pods_that_they_are_for(rendered: Rendered) -> None:
    pods = {each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"] for each in rendered if each["kind"] == "Deployment"}
    for each in rendered:
        if each["kind"] in ("Deployment", "PodDisruptionBudget"):
            labels = each["spec"]["selector"]["matchLabels"].items()
            assert [name for name, there in pods.items() if labels <= there.items()] == [each["metadata"]["name"]]


def test_tokens_of_values_are_a_file_that_the_api_reads(render: Callable[..., Rendered]) -> None:
    rendered = render(LEAST)
    secret, (_, container) = of(rendered, "Secret", "-tokens"), next(each for each in containers(rendered) if each[1]["name"] == "api")
    (key, text), (path,) = next(iter(secret["stringData"].items())), [word for word in container["args"] if "--tokens-file" in word]
    assert path.endswith(f"/etc/bananas/{key}")
    assert check_settings({"BANANAS_API_TOKENS": text.strip()}).api_tokens.reveal() == "viewer:0123456789abcdef0123"


def test_a_worker_scales_by_the_backlog_of_its_queue(render: Callable[..., Rendered]) -> None:
    rendered = render(EVERYTHING)
    hpa, keda = of(rendered, "HorizontalPodAutoscaler"), of(rendered, "ScaledObject")
    (metric,) = hpa["spec"]["metrics"]
    assert metric["external"]["metric"] == {"name": "bananas_queue_backlog_seconds", "selector": {"matchLabels": {"queue": "email"}}}
    assert metric["external"]["target"]["type"] == keda["spec"]["triggers"][0]["metricType"] == "Value"
    assert keda["spec"]["triggers"][0]["metadata"]["query"] == 'max(bananas_queue_backlog_seconds{queue="bulk"})'
    assert keda["spec"]["minReplicaCount"] == 0
    for name in (hpa["spec"]["scaleTargetRef"]["name"], keda["spec"]["scaleTargetRef"]["name"]):
        assert "replicas" not in of(rendered, "Deployment", name)["spec"]
    assert of(rendered, "Deployment", "-default")["spec"]["replicas"] == 3


def test_monitors_ask_ports_that_are_there(render: Callable[..., Rendered]) -> None:
    rendered = render(EVERYTHING)
    ports = {each["name"] for _, container in containers(rendered) for each in container["ports"]}
    service = of(rendered, "ServiceMonitor")["spec"]["endpoints"][0]
    pod = of(rendered, "PodMonitor")["spec"]["podMetricsEndpoints"][0]
    assert {service["port"], pod["port"]} <= ports
    assert service["port"] in {each["name"] for each in of(rendered, "Service")["spec"]["ports"]}
    named = {port["port"] for rule in of(rendered, "NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]}
    assert named == ports
    assert of(rendered, "PrometheusRule")["spec"] == documents(DEPLOY / "prometheus/alerts.yaml")[0]
    dashboard = of(rendered, "ConfigMap", "-dashboard")["data"]["bananas.json"]
    assert json.loads(dashboard) == json.loads((DEPLOY / "grafana/bananas.json").read_text())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("app=shop:app", "image.repository"),
        ("image.repository=shop,redis.url=redis://r,api.enabled=false", "app: name it as MODULE:APP"),
        (LEAST.replace("redis.url", "redis.existingsecret"), "existingsecret"),
        (LEAST.partition(",redis")[0] + ",api.enabled=false", "redis.url or redis.existingSecret"),
        (LEAST.partition(",api")[0], "api.tokens"),
        (LEAST + ",workers.default.concurency=5", "concurency"),
        (LEAST + ",workers.default.autoscaling.enabled=true", "name the queue whose backlog counts"),
        (LEAST + ",workers.default.autoscaling.enabled=true,workers.default.autoscaling.keda.enabled=true", "choose one"),
        (LEAST + ",settings.redis_url=redis://r", "settings.redis_url"),
        (LEAST + ",settings.shutdown_timeout=5s", "shutdownTimeoutSeconds"),
        (LEAST + ",metrics.serviceMonitor.enabled=true", "tokenSecret"),
    ],
)
def test_values_that_are_wrong_are_refused_by_name(render: Callable[..., Rendered], values: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        render(values)


def test_settings_arrive_as_they_were_meant(render: Callable[..., Rendered]) -> None:
    settings = "settings.max_jobs=10000000,settings.api_rate=0.5,settings.encrypt=false,settings.worker_routing_keys={email:3,bulk}"
    _, container = next(each for each in containers(render(LEAST, settings)) if each[1]["name"] == "worker")
    found = check_settings({each["name"]: each.get("value", "redis://r") for each in container["env"]})
    assert (found.max_jobs, found.api_rate, found.encrypt) == (10_000_000, 0.5, False)
    assert found.worker_routing_keys == ("email:3", "bulk")


def test_the_schema_takes_the_values_and_knows_each_of_them() -> None:
    (values,), schema = documents(CHART / "values.yaml"), json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(values, schema)
    jsonschema.validate(documents(EVERYTHING)[0], schema)
    assert set(values) == set(schema["properties"]) - {"global"}
    assert set(values["workerDefaults"]) == set(schema["$defs"]["worker"]["properties"])


def test_every_value_is_used_by_a_template() -> None:
    (values,) = documents(CHART / "values.yaml")
    text = "".join(path.read_text() for path in (CHART / "templates").iterdir())
    used = {word for path in re.findall(r"[$.](?:[A-Za-z]+\.)*[A-Za-z]+", text) for word in re.findall(r"[A-Za-z]+", path)}
    named = [*values, *values["workerDefaults"], *values["api"], *values["networkPolicy"], *values["metrics"], *values["scheduler"]]
    assert sorted(set(named) - used) == []
