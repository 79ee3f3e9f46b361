"""Manifests by the schemas of Kubernetes; manual pages and completions by their readers."""

import os
import re
import subprocess
import tempfile
import tomllib
import unittest
from pathlib import Path

import kubernetes_validate
import yaml
from jsonschema import Draft7Validator

from world import CUTOVER, ROOT, RealTest

BASE = ROOT / "docker/kubernetes/base"
DURABLE = ROOT / "docker/kubernetes/durable"
DURATION = {"type": "string", "pattern": r"^(\d+h)?(\d+m)?(\d+s)?$"}
# What is used of the Prometheus operator's own definition (monitoring.coreos.com/v1).
SERVICE_MONITOR = {
    "type": "object",
    "required": ["selector", "endpoints"],
    "additionalProperties": False,
    "properties": {
        "jobLabel": {"type": "string"},
        "selector": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"matchLabels": {"additionalProperties": {"type": "string"}}},
        },
        "endpoints": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "port": {"type": "string"}, "path": {"type": "string"}, "interval": DURATION,
                },
            },
        },
    },
}


def documents(file):
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


def generated(kustomization, folder):
    """The ConfigMaps that kustomize makes of files."""
    for one in kustomization.get("configMapGenerator", []):
        texts = {name: (folder / name).read_text() for name in one["files"]}
        about = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": one["name"]}}
        yield {**about, "data": texts}


def base():
    """What `kubectl apply -k docker/kubernetes/base` applies, by kind and name."""
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    applied = [d for name in kustomization["resources"] for d in documents(BASE / name)]
    applied += generated(kustomization, BASE)
    return {(one["kind"], one["metadata"]["name"]): one for one in applied}


def patched(document, patch):
    """A JSON patch (RFC 6902), as far as durable/ uses it."""
    for step in patch:
        *way, last = step["path"].strip("/").split("/")
        at = document
        for name in way:
            at = at[int(name)] if isinstance(at, list) else at[name]
        last = int(last) if isinstance(at, list) else last
        if step["op"] == "test":
            assert at[last] == step["value"], step
        elif step["op"] == "remove":
            del at[last]
        else:
            assert (last in at) == (step["op"] == "replace"), step
            at[last] = step["value"]
    return document


def durable():
    """The same of docker/kubernetes/durable."""
    kustomization = yaml.safe_load((DURABLE / "kustomization.yaml").read_text())
    assert kustomization["resources"] == ["../base"]
    applied = base()
    for patch in kustomization["patches"]:
        one = applied.pop((patch["target"]["kind"], patch["target"]["name"]))
        one = patched(one, yaml.safe_load(patch["patch"]))
        applied[one["kind"], one["metadata"]["name"]] = one
    return applied


def workload(applied):
    (found,) = [one for (kind, _), one in applied.items() if kind in ("Deployment", "StatefulSet")]
    return found


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text).group(1))


class Manifests(unittest.TestCase):
    def test_both_ways_to_install_fit_the_schemas_of_kubernetes(self):
        for name, applied in (("base", base()), ("durable", durable())):
            self.assertEqual(len(applied), 6, applied.keys())
            for key, document in applied.items():
                with self.subTest(name, of=key):
                    kubernetes_validate.validate(document, "1.37", strict=True)
        self.assertIn(("StatefulSet", "cutover"), durable())

    def test_the_schemas_would_refuse_a_fault(self):
        deployment = base()["Deployment", "cutover"]
        deployment["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
        with self.assertRaises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(deployment, "1.37", strict=True)

    def test_the_service_monitor_finds_the_admin_service(self):
        (monitor,) = documents(BASE / "servicemonitor.yaml")
        self.assertEqual(monitor["apiVersion"], "monitoring.coreos.com/v1")
        faults = Draft7Validator(SERVICE_MONITOR).iter_errors(monitor["spec"])
        self.assertEqual([fault.message for fault in faults], [])
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        found = [one for (kind, _), one in base().items()
                 if kind == "Service" and wanted <= one["metadata"].get("labels", {}).items()]
        self.assertEqual([one["metadata"]["name"] for one in found], ["cutover-admin"])
        # The operator takes the job's name from this label of the Service, or else the Service's own name.
        job = found[0]["metadata"]["labels"].get(monitor["spec"].get("jobLabel"), "cutover-admin")
        rules = (ROOT / "docker/prometheus/rules/alerts.yaml").read_text()
        self.assertEqual(set(re.findall(r'\bjob="(\w+)"', rules)), {job})
        ports = [port["name"] for port in found[0]["spec"]["ports"]]
        self.assertEqual([end["port"] for end in monitor["spec"]["endpoints"]], ports)

    def test_a_pod_is_as_restricted_as_pods_can_be(self):
        for applied in (base(), durable()):
            pod = workload(applied)["spec"]["template"]["spec"]
            own = pod["securityContext"]
            self.assertTrue(own["runAsNonRoot"])
            self.assertEqual(own["seccompProfile"], {"type": "RuntimeDefault"})
            user = f"USER {own['runAsUser']}:{own['runAsGroup']}\n"
            self.assertIn(user, (ROOT / "Dockerfile").read_text())
            self.assertFalse(pod["automountServiceAccountToken"])
            for container in pod["containers"]:
                self.assertEqual(container["securityContext"], {
                    "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                })

    def test_the_parts_fit_together(self):
        for applied in (base(), durable()):
            spec = workload(applied)["spec"]
            template = spec["template"]
            (container,) = template["spec"]["containers"]
            labels = template["metadata"]["labels"].items()
            ports = {port["name"] for port in container["ports"]}
            selectors = [spec["selector"]["matchLabels"]]
            for (kind, name), one in applied.items():
                if kind == "Service":
                    selectors.append(one["spec"]["selector"])
                    self.assertLessEqual({port["targetPort"] for port in one["spec"]["ports"]}, ports)
                elif kind == "PodDisruptionBudget":
                    selectors.append(one["spec"]["selector"]["matchLabels"])
                elif kind == "NetworkPolicy":
                    selectors.append(one["spec"]["podSelector"]["matchLabels"])
            self.assertEqual(len(selectors), 5)
            self.assertTrue(all(selector.items() <= labels for selector in selectors), selectors)
            volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
            claims = spec.get("volumeClaimTemplates", [])
            claims = [claim["metadata"]["name"] for claim in claims]
            mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
            self.assertEqual(mounts.keys(), {*volumes, *claims})
            # A subPath would never show a change of the ConfigMap.
            self.assertNotIn("subPath", mounts["config"])
            self.assertIn(("ConfigMap", volumes["config"]["configMap"]["name"]), applied)
            self.assertEqual(mounts["state"]["mountPath"], "/var/lib/cutover")
            if claims:
                self.assertIn(("Service", spec["serviceName"]), applied)

    def test_the_config_is_sound_and_drains_within_the_time_that_a_pod_has(self):
        command = [CUTOVER, "check", BASE / "cutover.toml"]
        done = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        config = tomllib.loads((BASE / "cutover.toml").read_text())
        pod = workload(base())["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        drain = seconds(config["drain"]["delay"]) + seconds(config["drain"]["timeout"])
        self.assertLess(drain, pod["terminationGracePeriodSeconds"])
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        self.assertEqual(config["state_dir"], mounts["state"])
        self.assertEqual(os.path.dirname(config["admin"]["token_file"]), mounts["admin-token"])
        self.assertEqual(container["args"][-1], f"{mounts['config']}/cutover.toml")
        ports = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
        self.assertEqual(config["listen"]["address"].split(":")[1], ports["http"])
        self.assertEqual(config["admin"]["address"].split(":")[1], ports["admin"])


class Probes(RealTest):
    def test_the_probes_ask_for_what_the_admin_listener_has(self):
        proxy = self.start_proxy(0.0)
        (container,) = workload(base())["spec"]["template"]["spec"]["containers"]
        for probe in ("livenessProbe", "readinessProbe"):
            ask = container[probe]["httpGet"]
            self.assertEqual(ask["port"], "admin")
            self.assertEqual(proxy.admin(ask["path"]).status, 200, ask)


class Readers(unittest.TestCase):
    def test_manual_pages_are_set_without_a_warning(self):
        with tempfile.TemporaryDirectory(prefix="real-") as folder:
            subprocess.run([CUTOVER, "man", folder], check=True)
            pages = sorted(Path(folder).iterdir())
            self.assertGreater(len(pages), 15)
            environment = {**os.environ, "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"}
            for page in pages:
                command = ["man", "--warnings", "--encoding=UTF-8", "--local-file", page]
                done = subprocess.run(command, env=environment, capture_output=True, text=True)
                self.assertEqual((done.returncode, done.stderr), (0, ""), page.name)
                self.assertIn("NAME", done.stdout)

    def test_shells_accept_their_completions(self):
        with tempfile.TemporaryDirectory(prefix="real-") as folder:
            for shell in ("bash", "zsh", "fish"):
                script = Path(folder) / shell
                script.write_bytes(subprocess.check_output([CUTOVER, "completions", shell]))
                done = subprocess.run([shell, "-n", script], capture_output=True, text=True)
                self.assertEqual((done.returncode, done.stderr), (0, ""), shell)
