"""What a cluster's scheduler takes: the script of a program inside a batch script of Slurm, a task of SkyPilot or
objects of Kubernetes; and these read back, with files of Docker Compose.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmhw.job import ServingJob
from llmhw.launch import FORMS, Asked, Form, Launched, Written, cannot_say, heading, read
from llmhw.launch.programs import Program, program
from llmhw.launch.serving import ENGINES, for_engine, instance_of
from llmhw.launch.shell import Script, items, mapping, read_script, whole, written_file
from llmhw.units import LLMHWError

# Resources of Kubernetes that devices are asked for by, as the vendors' device plugins name them.
_RESOURCES = {"NVIDIA": "nvidia.com/gpu", "AMD": "amd.com/gpu", "Intel": "gpu.intel.com/xe"}
_TRAINING_IMAGE = "pytorch/pytorch:latest"
# Seconds to load a model until a program counts as broken, and between two looks.
_LOADING, _LOOK = 3600, 10


@dataclass(frozen=True)
class Inside:
    """The program inside, and what it takes of machines.

    form       of the program
    written    its file
    nodes      that one instance or run takes
    per_node   devices of each
    instances  that run alike, each on nodes of its own; 1 for training
    program    its container and port; None for training
    """

    form: Form
    written: Written
    nodes: int
    per_node: int
    instances: int
    program: Program | None
    job: Any


def _inside(asked: Asked, *, apart: bool) -> Inside:
    """The program inside. `apart`: instances that fit in a node are asked for one by one; else a node's together."""
    form, job = asked.around, asked.job
    assert form is not None
    if not isinstance(job, ServingJob):
        cluster = job.cluster
        per_node = min(cluster.devices_per_node, cluster.devices)
        return Inside(form, form.write(asked), cluster.nodes, per_node, 1, None, job)
    job = for_engine(job, form.name, ENGINES[form.name])
    cluster = job.cluster
    node = min(cluster.devices_per_node, cluster.devices)
    instances, each = job.replicas, job
    if apart or job.devices >= node:
        each = instance_of(job)
    elif cluster.nodes > 1:  # the instances of one node
        instances = cluster.nodes
        each = replace(job, cluster=replace_cluster(job, node))
    else:
        instances = 1
    per_node = min(node, each.cluster.devices)
    written = form.write(replace(asked, job=each, around=None))
    return Inside(form, written, each.cluster.nodes, per_node, instances, program(form.name, each), each)


def replace_cluster(job: ServingJob, devices: int) -> Any:
    """The job's cluster with so many devices, in one node."""
    from llmhw.hardware import Cluster

    old = job.cluster
    return Cluster(old.accelerator, devices, devices, old.intra_link)


def _name(asked: Asked) -> str:
    """The job's name: the model's, in letters that every scheduler takes."""
    return re.sub(r"[^a-z0-9]+", "-", asked.model_id.rsplit("/", 1)[-1].lower()).strip("-")[:50] or "model"


def _said(inside: Inside) -> frozenset[str]:
    return inside.written.said


def _file(inside: Inside) -> list[str]:
    """Lines that write the file of the program inside."""
    return written_file(inside.form.file, inside.written.text, mark="LLMHW")


# -- Slurm ------------------------------------------------------------------------------------


def slurm(asked: Asked) -> Written:
    """A batch script: a task on every node, which runs the program's file."""
    form, inside = FORMS["slurm"], _inside(asked, apart=False)
    many = inside.instances > 1
    options = [
        f"--job-name={_name(asked)}",
        f"--nodes={inside.nodes}",
        "--ntasks-per-node=1",
        f"--gpus-per-node={inside.per_node}",
        "--exclusive",
        "--output=%x-%j.log",
        *([f"--array=0-{inside.instances - 1}"] if many else []),
    ]
    notes = ["Add --partition, --account and --time as your cluster wants them."]
    if many:
        notes.append(
            f"{inside.instances} jobs alike, one on every {inside.nodes} node(s); share requests out over them."
        )
    if inside.written.packages:
        notes.append(f"Packages: pip install {' '.join(inside.written.packages)}")
    if inside.written.image:
        notes.append(f"Or in a container (pyxis): srun --container-image={inside.written.image}")
    head = heading(asked, form, *notes)
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in options),
        *head,
        "set -euo pipefail",
        "",
        *_file(inside),
        'MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)  # the first node',
        "MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))",
        "export MASTER_ADDR MASTER_PORT",
        f"srun --kill-on-bad-exit=1 bash -c 'export NODE_RANK=$SLURM_NODEID; {_plain(inside.written.command)}'",
    ]
    text = "\n".join([*lines, ""])
    return Written(text=text, said=_said(inside), command="sbatch job.sbatch")


def _plain(command: str) -> str:
    """A command as it stands in single quotes."""
    return command.replace("'", "'\\''")


# -- SkyPilot ---------------------------------------------------------------------------------


def sky_name(device: str) -> str | None:
    """SkyPilot's name of a device; None where it has none.

    >>> sky_name("H100 SXM5 80GB"), sky_name("RTX 4090"), sky_name("M1 8-core 8GB")
    ('H100', 'RTX4090', None)
    """
    from llmhw.catalog import read_table

    return next((row["name"] for row in read_table("skypilot_names") if row["accelerator"] == device), None)


def skypilot(asked: Asked) -> Written:
    """A task, with a service around it where there are several instances."""
    form, inside = FORMS["skypilot"], _inside(asked, apart=True)
    device = asked.job.cluster.accelerator
    name = sky_name(device.name)
    if name is None:
        raise cannot_say("skypilot", f"device={device.name!r}, for which it has no name")
    served = inside.program
    start = "sky serve up task.yaml" if inside.instances > 1 else f"sky launch -c {_name(asked)} task.yaml"
    lines = [
        *heading(asked, form, f"Start it with: {start}"),
        f"name: {_name(asked)}",
        f"num_nodes: {inside.nodes}",
        "resources:",
        f"  accelerators: {name}:{inside.per_node}  # {device.name}",
        *([f"  image_id: docker:{inside.written.image}"] if inside.written.image else []),
        *([f"  ports: {served.port}"] if served else []),
        *(["  network_tier: best  # between nodes"] if inside.nodes > 1 else []),
        "secrets:",
        "  HF_TOKEN: null  # give --secret HF_TOKEN where the model asks for it",
    ]
    if inside.instances > 1 and served:
        lines += [
            "service:",
            "  readiness_probe:",
            f"    path: {served.health}",
            f"    initial_delay_seconds: {_LOADING}  # to load the model, at most",
            f"  replicas: {inside.instances}",
        ]
    packages = inside.written.packages
    if packages and not inside.written.image:
        lines += ["setup: |", f"  pip install {' '.join(packages)}"]
    elif plugins := [one for one in packages if one.endswith("-plugin")]:
        lines += ["setup: |", f"  pip install {' '.join(plugins)}"]
    script = [
        *_file(inside),
        "export NODE_RANK=$SKYPILOT_NODE_RANK MASTER_PORT=29501",
        'MASTER_ADDR=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)',
        "export MASTER_ADDR",
        inside.written.command,
    ]
    lines += ["run: |", *_indented(script, 2)]
    return Written(text="\n".join([*lines, ""]), said=_said(inside), command=start)


def _indented(lines: Iterable[str], by: int) -> list[str]:
    return [f"{' ' * by}{line}".rstrip() for text in lines for line in text.split("\n")]


# -- Kubernetes -------------------------------------------------------------------------------


def kubernetes(asked: Asked) -> Written:
    """Objects: the program's file, and what runs it.

    An instance in one node is a Deployment with a Service, one over several nodes a LeaderWorkerSet; training is a Job,
    indexed by node.
    """
    form, inside = FORMS["kubernetes"], _inside(asked, apart=True)
    device = asked.job.cluster.accelerator
    resource = _RESOURCES.get(device.vendor or "NVIDIA")
    if resource is None:
        raise cannot_say("kubernetes", f"device={device.name!r}, for which there is no usual device plugin")
    name = _name(asked)
    image = inside.written.image or (_TRAINING_IMAGE if inside.program is None else "")
    if not image:
        raise cannot_say("kubernetes", f"device={device.name!r}: no container of {inside.form.name} for it is usual")
    notes = ["Start it with: kubectl apply -f job.yaml"]
    if inside.program and inside.nodes > 1:
        notes.append("It needs LeaderWorkerSet: https://lws.sigs.k8s.io/docs/installation")
    pod = _pod(inside, name, image, resource)
    lines = [*heading(asked, form, *notes), *_config_map(inside, name)]
    if inside.program is None:
        lines += _job(inside, name, pod)
    elif inside.nodes > 1:
        lines += [*_leader_workers(inside, name, pod), *_service(inside, name, leader=True)]
    else:
        lines += [*_deployment(inside, name, pod), *_service(inside, name, leader=False)]
    return Written(text="\n".join([*lines, ""]), said=_said(inside), command="kubectl apply -f job.yaml")


def _config_map(inside: Inside, name: str) -> list[str]:
    return [
        "apiVersion: v1",
        "kind: ConfigMap",
        "metadata:",
        f"  name: {name}",
        "data:",
        f"  {inside.form.file}: |",
        *_indented(inside.written.text.rstrip("\n").split("\n"), 4),
    ]


def _pod(inside: Inside, name: str, image: str, resource: str) -> list[str]:
    """The spec of a pod: a node's part of the program."""
    env = {
        "NODE_RANK": "$LWS_WORKER_INDEX" if inside.program else "${JOB_COMPLETION_INDEX:-0}",
        "MASTER_ADDR": "$LWS_LEADER_ADDRESS" if inside.program else f"{name}-0.{name}",
        "MASTER_PORT": "29501",
    }
    exports = [f"export {key}={value}" for key, value in env.items()] if inside.nodes > 1 else []
    plugins = [one for one in inside.written.packages if one.endswith("-plugin")]
    setup = [f"pip install {' '.join(plugins)}"] if plugins else []
    if inside.program is None and inside.written.packages:
        setup = [f"pip install {' '.join(inside.written.packages)}"]
    served = inside.program
    probes = []
    if served:
        probes = [
            f"ports: [{{containerPort: {served.port}}}]",
            "startupProbe:  # until the model is loaded",
            f"  httpGet: {{path: {served.health}, port: {served.port}}}",
            f"  periodSeconds: {_LOOK}",
            f"  failureThreshold: {_LOADING // _LOOK}",
            "readinessProbe:",
            f"  httpGet: {{path: {served.health}, port: {served.port}}}",
            "livenessProbe:",
            f"  httpGet: {{path: {served.health}, port: {served.port}}}",
            "  failureThreshold: 6",
        ]
    return [
        "containers:",
        "  - name: main",
        f"    image: {image}",
        "    workingDir: /work",
        '    command: ["bash", "-c"]',
        "    args:",
        "      - |",
        *_indented(["cp /launch/* /work/", *setup, *exports, inside.written.command], 8),
        "    env:",
        "      # Where the model asks for it: kubectl create secret generic hf --from-literal=token=...",
        "      - name: HF_TOKEN",
        "        valueFrom: {secretKeyRef: {name: hf, key: token, optional: true}}",
        "    resources:",
        "      limits:",
        f"        {resource}: {inside.per_node}",
        *_indented(probes, 4),
        "    volumeMounts:",
        "      - {name: launch, mountPath: /launch}",
        "      - {name: work, mountPath: /work}",
        "      - {name: shm, mountPath: /dev/shm}",
        "volumes:",
        f"  - {{name: launch, configMap: {{name: {name}}}}}",
        "  - {name: work, emptyDir: {}}",
        "  - {name: shm, emptyDir: {medium: Memory}}  # ranks exchange through shared memory",
    ]


def _deployment(inside: Inside, name: str, pod: list[str]) -> list[str]:
    return [
        "---",
        "apiVersion: apps/v1",
        "kind: Deployment",
        "metadata:",
        f"  name: {name}",
        "spec:",
        f"  replicas: {inside.instances}",
        "  selector: {matchLabels: {app: " + name + "}}",
        "  strategy: {type: Recreate}  # a new pod would wait for the devices of the old one",
        "  template:",
        "    metadata: {labels: {app: " + name + "}}",
        "    spec:",
        *_indented(pod, 6),
    ]


def _leader_workers(inside: Inside, name: str, pod: list[str]) -> list[str]:
    probes = ("ports:", "startupProbe:", "readinessProbe:", "livenessProbe:")
    worker, skipping = [], False
    for line in pod:  # only the leader answers
        depth, word = len(line) - len(line.lstrip()), line.split()[0]
        skipping = word in probes or (skipping and depth > 4)
        worker += [] if skipping else [line]
    return [
        "---",
        "apiVersion: leaderworkerset.x-k8s.io/v1",
        "kind: LeaderWorkerSet",
        "metadata:",
        f"  name: {name}",
        "spec:",
        f"  replicas: {inside.instances}",
        "  leaderWorkerTemplate:",
        f"    size: {inside.nodes}  # nodes of an instance",
        "    restartPolicy: RecreateGroupOnPodRestart",
        "    leaderTemplate:",
        "      metadata: {labels: {app: " + name + ", role: leader}}",
        "      spec:",
        *_indented(pod, 8),
        "    workerTemplate:",
        "      spec:",
        *_indented(worker, 8),
    ]


def _service(inside: Inside, name: str, *, leader: bool) -> list[str]:
    assert inside.program is not None
    labels = f"app: {name}, role: leader" if leader else f"app: {name}"
    return [
        "---",
        "apiVersion: v1",
        "kind: Service",
        "metadata:",
        f"  name: {name}",
        "spec:",
        f"  selector: {{{labels}}}",
        f"  ports: [{{port: {inside.program.port}}}]",
    ]


def _job(inside: Inside, name: str, pod: list[str]) -> list[str]:
    many = inside.nodes > 1
    service = [
        "---",
        "apiVersion: v1",
        "kind: Service  # names for the nodes",
        "metadata:",
        f"  name: {name}",
        "spec:",
        "  clusterIP: None",
        "  publishNotReadyAddresses: true",
        f"  selector: {{job-name: {name}}}",
    ]
    return [
        *(service if many else []),
        "---",
        "apiVersion: batch/v1",
        "kind: Job",
        "metadata:",
        f"  name: {name}",
        "spec:",
        *([f"  completions: {inside.nodes}", f"  parallelism: {inside.nodes}"] if many else []),
        *(["  completionMode: Indexed  # a pod is a node, its index the node's number"] if many else []),
        "  backoffLimit: 0",
        "  template:",
        "    spec:",
        *([f"      subdomain: {name}"] if many else []),
        "      restartPolicy: Never",
        *_indented(pod, 6),
    ]


# -- read -------------------------------------------------------------------------------------


def documents(text: str) -> list[Any]:
    """The documents of a text of YAML."""
    try:
        import yaml
    except ImportError:
        raise LLMHWError("from: it is YAML, which needs PyYAML; pip install 'llmhw[yaml]'") from None
    try:
        return [data for data in yaml.safe_load_all(text) if data is not None]
    except yaml.YAMLError as error:
        raise LLMHWError(f"from: it is no YAML: {' '.join(str(error).split())}") from None


def kind_of(text: str) -> str:
    """What is around a program in a text: slurm, skypilot, kubernetes or compose; "" where nothing is.

    >>> kind_of("#!/bin/bash\\n#SBATCH --nodes=2"), kind_of("services:\\n  a: {}"), kind_of("vllm serve a/b")
    ('slurm', 'compose', '')
    """
    if re.search(r"(?m)^#SBATCH\s", text):
        return "slurm"
    if text.startswith("#!") or text.lstrip()[:1] in ("{", "["):
        return ""
    keys = set(re.findall(r"(?m)^([A-Za-z_]+):(?:\s|$)", text))
    if {"apiVersion", "kind"} <= keys:
        return "kubernetes"
    if "services" in keys:
        return "compose"
    if "run" in keys and keys & {"resources", "num_nodes", "setup", "service", "envs"}:
        return "skypilot"
    return ""


def opened(text: str) -> tuple[Script, dict[str, Any]]:
    """The script inside a text, and what is around it gives: gpus, devices_per_node."""
    kind = kind_of(text)
    if kind == "slurm":
        return _opened_slurm(text)
    if kind in ("skypilot", "kubernetes", "compose"):
        reader = {"skypilot": _opened_skypilot, "kubernetes": _opened_kubernetes, "compose": _opened_compose}[kind]
        return reader([data for data in documents(text) if isinstance(data, Mapping)])
    return _opened(text), {}


def _opened(text: str, known: Mapping[str, str] | None = None) -> Script:
    """A script with the scripts that it writes and runs in their places."""
    script = read_script(text, known)
    for name, inner in list(script.files.items()):
        if name.rsplit("/", 1)[-1] == "serve.sh":
            within = _opened(inner)
            script.commands += within.commands
            script.files |= within.files
            script.variables |= within.variables
    return script


def _counted(nodes: int, per_node: int) -> dict[str, Any]:
    if not per_node:
        return {}
    return {"gpus": nodes * per_node} | ({"devices_per_node": per_node} if nodes > 1 else {})


def _opened_slurm(text: str) -> tuple[Script, dict[str, Any]]:
    found: dict[str, str] = {}
    for line in re.findall(r"(?m)^#SBATCH\s+(.*)$", text):
        for flag, value in re.findall(r"(--?[\w-]+)(?:[= ]\s*([^\s#-][^\s#]*))?", line):
            found[flag] = value
    nodes = found.get("--nodes") or found.get("-N") or "1"
    per_node = found.get("--gpus-per-node") or found.get("--gres", "").removeprefix("gpu:") or ""
    count = re.search(r"(\d+)$", per_node)
    array = re.fullmatch(r"0-(\d+)", found.get("--array", ""))
    total = int(re.match(r"\d+", nodes)[0]) if re.match(r"\d+", nodes) else 1  # type: ignore[index]
    total *= int(array[1]) + 1 if array else 1
    if not count and (gpus := re.search(r"(\d+)$", found.get("--gpus", "") or found.get("-G", ""))):
        return _opened(text), _counted(total, max(1, int(gpus[1]) // total))
    return _opened(text), _counted(total, int(count[1]) if count else 0)


def _opened_skypilot(data: list[Mapping[str, Any]]) -> tuple[Script, dict[str, Any]]:
    task = next((one for one in data if "run" in one), {})
    asked = mapping("resources", task.get("resources")).get("accelerators")
    if isinstance(asked, Mapping):
        asked = ":".join(str(part or 1) for part in next(iter(asked.items()), ("",)))
    elif isinstance(asked, list):
        asked = next(iter(asked), "")
    each = whole("accelerators", str(asked).partition(":")[2] or 1) if asked else 0
    service = mapping("service", task.get("service"))
    policy = mapping("replica_policy", service.get("replica_policy"))
    copies = whole("replicas", service.get("replicas") or policy.get("min_replicas") or 1)
    nodes = whole("num_nodes", task.get("num_nodes") or 1)
    known = {str(name): str(value) for name, value in mapping("envs", task.get("envs")).items() if value is not None}
    known |= {"SKYPILOT_NUM_GPUS_PER_NODE": str(each), "SKYPILOT_NUM_NODES": str(nodes)}
    return _opened(str(task.get("run", "")), known), _counted(copies * nodes, each)


def _opened_kubernetes(data: list[Mapping[str, Any]]) -> tuple[Script, dict[str, Any]]:
    files: dict[str, str] = {}
    for one in data:
        if one.get("kind") == "ConfigMap":
            files |= {name: str(text) for name, text in mapping("data", one.get("data")).items()}
    for one in data:
        spec = mapping("spec", one.get("spec"))
        leader = mapping("leaderWorkerTemplate", spec.get("leaderWorkerTemplate"))
        template = leader.get("leaderTemplate") or leader.get("workerTemplate") or spec.get("template") or one
        pod = mapping("spec", mapping("template", template).get("spec"))
        for entry in items("containers", pod.get("containers")):
            container = mapping("containers", entry)
            script = _of_container(container, files)
            limits = mapping("limits", mapping("resources", container.get("resources")).get("limits"))
            devices = sum(whole(name, n) for name, n in limits.items() if name in _RESOURCES.values())
            copies = whole("replicas", spec.get("replicas") or 1)
            copies *= whole("nodes", leader.get("size") or spec.get("completions") or 1)
            if script.commands:
                return script, _counted(copies, devices)
    raise LLMHWError("from: no container of it has a command")


def _of_container(container: Mapping[str, Any], files: Mapping[str, str]) -> Script:
    """The script of a container: its image, command and arguments as one, with files that are mounted."""
    words = [str(word) for key in ("command", "args") for word in items(key, container.get(key))]
    runs = next((i for i, word in enumerate(words) if word in ("-c", "-lc", "-ec")), None)
    pairs = [mapping("env", pair) for pair in items("env", container.get("env"))]
    known = {str(pair.get("name")): str(pair["value"]) for pair in pairs if "value" in pair}
    script = Script([words] if words else [], dict(known))
    if runs is not None and runs + 1 < len(words):
        script = _opened(words[runs + 1], known)
    if runs is None:
        script.commands = [[str(container.get("image", "")), *words]]
    for name, text in files.items():
        script.files[name] = text
        if any(name in word for words_of in script.commands for word in words_of):
            inner = _opened(text)
            script.commands += inner.commands
            script.files |= inner.files
            script.variables |= inner.variables
    return script


def _opened_compose(data: list[Mapping[str, Any]]) -> tuple[Script, dict[str, Any]]:
    for entry in mapping("services", (data or [{}])[0].get("services")).values():
        service = mapping("services", entry)
        command = service.get("command") or []
        if isinstance(command, str):
            command = next(iter(read_script(command).commands), [])
        first = service.get("entrypoint") or []
        first = first.split() if isinstance(first, str) else first
        words = [
            str(service.get("image", "")),
            *map(str, items("entrypoint", first)),
            *map(str, items("command", command)),
        ]
        environment = service.get("environment")
        if isinstance(environment, list):
            environment = dict(str(pair).partition("=")[::2] for pair in environment)
        variables = {str(name): str(value) for name, value in mapping("environment", environment).items()}
        inner = next((w for w in words if " " in w and "serve" in w), None)
        script = Script([words], variables)
        if inner is not None:
            script.commands += _opened(inner).commands
        if service.get("image"):
            return script, _counted(1, _reserved(service))
    raise LLMHWError("from: no service of it has an image")


def _reserved(service: Mapping[str, Any]) -> int:
    """Devices that a service of Compose reserves; 0 where it says no number."""
    place: Mapping[str, Any] = service
    for name in ("deploy", "resources", "reservations"):
        place = mapping(name, place.get(name))
    for entry in items("devices", place.get("devices")):
        device = mapping("devices", entry)
        if isinstance(device.get("count"), int):
            return int(device["count"])
        if device.get("device_ids"):
            return len(device["device_ids"])
    return 0


def _read_inside(text: str) -> Launched:
    """What is said inside a scheduler's file, with the devices that it asks for."""
    from llmhw.launch.reading import trainer_in
    from llmhw.launch.served import found, found_program

    script, facts = opened(text)
    body = next((inner for name, inner in script.files.items() if name in {f.file for f in FORMS.values()}), None)
    said = found_program(script)
    name = said.form if said else found(body) if body else None
    if name is not None and FORMS[name].of == "serving":
        made = FORMS[name].read(text)
    elif body is not None:
        made = read(body)
    elif trainer := trainer_in(text):
        made = FORMS[trainer].read(text)
    else:
        raise LLMHWError("from: no program of a trainer or an engine is started in it")
    known = {key: value for key, value in facts.items() if key in ("gpus", "devices_per_node")}
    return Launched(
        form=made.form,
        model=made.model,
        config=made.config,
        options={**made.options, **known},
        accumulation=made.accumulation,
        notes=made.notes,
    )


read_slurm = read_skypilot = read_kubernetes = _read_inside
