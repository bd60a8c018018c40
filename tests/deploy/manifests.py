#!/usr/bin/env python3
"""The manifests of deploy/ that no program here can load: Kubernetes' by the schemas of its API, Traefik's by what it must say.

usage: manifests.py      prints what is wrong, and a line "N passed, N failed"
"""

import pathlib
import sys

import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The oldest that is supported somewhere, and the newest that the schemas know.
VERSIONS = ["1.31", "1.37"]
passed = failed = 0


def check(name, is_good, why=""):
    global passed, failed
    passed, failed = passed + bool(is_good), failed + (not is_good)
    if not is_good:
        print(f"FAIL  {name}: {why}")


def problem(document, version):
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return error.message if hasattr(error, "message") else str(error)
    return None


def main():
    documents = list(yaml.safe_load_all((ROOT / "deploy/kubernetes/mcp-auth-proxy.yaml").read_text()))
    for version in VERSIONS:
        for document in documents:
            found = problem(document, version)
            check(f"{document['kind']} for Kubernetes {version}", not found, found)
    # The check itself sees what is wrong.
    broken = next(d for d in documents if d["kind"] == "Deployment")
    broken = {**broken, "spec": {**broken["spec"], "replica": 1}}
    check("a misspelt field is noticed", problem(broken, VERSIONS[-1]), "it was not")
    kinds = {document["kind"]: document for document in documents}
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    proxy = pod["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in proxy["ports"]}
    env = {variable["name"]: variable for variable in proxy["env"]}
    check("the proxy listens where the probes ask", env["LISTEN"]["value"] == f":{ports['http']}", env)
    check("the secret has the key that is asked for", env["PASSWORD_HASH"]["valueFrom"]["secretKeyRef"]["key"] in kinds["Secret"]["stringData"], env)
    host = kinds["Ingress"]["spec"]["rules"][0]["host"]
    check("the ingress has the name of the external URL", f"--external-url=https://{host}" in proxy["args"], proxy["args"])
    check("no container may gain rights", all(not c["securityContext"]["allowPrivilegeEscalation"] for c in pod["containers"]), pod)
    traefik = yaml.safe_load((ROOT / "deploy/traefik/mcp-auth-proxy.yml").read_text())["http"]
    router, service = traefik["routers"]["mcp-auth-proxy"], traefik["services"]["mcp-auth-proxy"]["loadBalancer"]
    check("Traefik's router leads to its service", router["service"] in traefik["services"], router)
    check("Traefik holds no events back", service["responseForwarding"]["flushInterval"].startswith("-"), service)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()
