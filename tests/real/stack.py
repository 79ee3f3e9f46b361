"""The services of docker/compose.yaml as processes of this machine, without Docker.

Commands and configs are those of compose.yaml and of the Dockerfiles that it builds. Only what a
container has for itself is rewritten: names and ports become addresses of 127.0.0.1 with ports that
the system chooses, and paths become those of a temporary directory.
"""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import yaml

from processes import running
from world import BIN, CUTOVER, CUTOVER_SAYS, GUNICORN_SAYS, ROOT, UVICORN_SAYS, Proxy

DOCKER = ROOT / "docker"
# It listens for a while before it answers.
PROMETHEUS_SAYS = (
    r'(?s)msg="Listening on" address=127\.0\.0\.1:(\d+).*Server is ready to receive web requests'
)
PROGRAMS = {
    "/usr/local/bin/cutover": str(CUTOVER),
    "gunicorn": str(BIN / "gunicorn"),
    "uvicorn": str(BIN / "uvicorn"),
    "python": sys.executable,
}
# So that the rates of a few seconds are known.
SCRAPE_SECONDS = 1


class Image(NamedTuple):
    """The last stage of a Dockerfile, as far as it says what runs."""

    entrypoint: list
    command: list
    health: list
    environment: dict
    port: str
    copies: list


def read_image(path):
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    found = [line.split(None, 1) for line in lines if line.strip()]
    start = max(index for index, (word, _) in enumerate(found) if word == "FROM")
    last = [(word, rest) for word, rest in found[start:]]
    said = dict(last)
    health = said["HEALTHCHECK"].partition(" CMD ")[2]
    variables = [pair for word, rest in last if word == "ENV" for pair in rest.split()]
    return Image(
        json.loads(said.get("ENTRYPOINT", "[]")),
        json.loads(said["CMD"]),
        json.loads(health),
        dict(pair.split("=", 1) for pair in variables),
        said["EXPOSE"].split()[0],
        [rest.split() for word, rest in last if word == "COPY" and "--from" not in rest],
    )


class Stack:
    """All services but Grafana. `settings` are the variables that compose.yaml asks for."""

    def __init__(self, directory, settings):
        self.directory = Path(directory)
        self.services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
        self.settings = settings
        # Where the names of services lead, once they run.
        self.addresses = {}

    # === What runs ===

    def start_backend(self, stack, name):
        announced = {"legacy": GUNICORN_SAYS, "async": UVICORN_SAYS}[name]
        context, image = self.image_of(name)
        app = self.directory / f"image-{name}"
        for *sources, target in image.copies:
            (app / target).mkdir(parents=True, exist_ok=True)
            for source in sources:
                shutil.copy(context / source, app / target)
        # env -C is where WORKDIR is.
        command = ["env", "-C", app, *self.command_of(name, image)]
        asked = self.services[name].get("environment", {})
        environment = image.environment | {key: self.expand(asked[key]) for key in asked}
        environment = {key: self.localize(name, text) for key, text in environment.items()}
        process = stack.enter_context(running(command, announced, environment))
        self.addresses[f"{name}:{image.port}"] = f"127.0.0.1:{process.told[0]}"

    def token_script(self):
        """The command that draws the admin token, and the file that it makes."""
        service = self.services["admin-token"]
        # Two of a dollar are one to compose.
        words = [*service["entrypoint"], *service["command"]]
        command = [self.localize("admin-token", word.replace("$$", "$")) for word in words]
        return command, self.places("admin-token")["/run/cutover"] / "admin-token"

    def start_proxy(self, stack):
        config = self.configure("proxy", "/etc/cutover", "cutover.toml")
        _, image = self.image_of("proxy")
        command = self.command_of("proxy", image)
        process = stack.enter_context(running(command, CUTOVER_SAYS))
        self.addresses["proxy:8080"], self.addresses["proxy:9900"] = (
            f"127.0.0.1:{port}" for port in process.told
        )
        return Proxy(process, config)

    def start_prometheus(self, stack, edge):
        """`edge` is the admin address of one more proxy, scraped like the first."""
        config = self.configure("prometheus", "/etc/prometheus", "prometheus.yml")
        own = f'"{self.addresses["proxy:9900"]}"'
        text = config.read_text().replace(own, f'{own}, "{edge}"')
        config.write_text(re.sub(r"(_interval:) \d+s", rf"\1 {SCRAPE_SECONDS}s", text))
        flags = self.services["prometheus"]["command"]
        flags = [self.localize("prometheus", flag) for flag in flags]
        more = ["--web.listen-address=127.0.0.1:0", f"--storage.tsdb.path={self.directory}/tsdb"]
        process = running(["prometheus", *flags, *more], PROMETHEUS_SAYS)
        return int(stack.enter_context(process).told[0])

    def health_of(self, name):
        """The command that says whether a running service is healthy, and its environment."""
        _, image = self.image_of(name)
        told = self.addresses.get(f"{name}:{image.port}")
        command = [PROGRAMS.get(word, word) for word in image.health]
        command = [word.replace(f"127.0.0.1:{image.port}", told) for word in command]
        environment = {key: self.localize(name, text) for key, text in image.environment.items()}
        # The port in the config is not the one that the system has chosen.
        return command, environment | {"CUTOVER_ADMIN": self.addresses["proxy:9900"]}

    # === What is rewritten ===

    def image_of(self, name):
        build = self.services[name]["build"]
        context = DOCKER / build["context"]
        return context, read_image(context / build.get("dockerfile", "Dockerfile"))

    def command_of(self, name, image):
        def local(word):
            if word in PROGRAMS:
                return PROGRAMS[word]
            return "0" if word == image.port else self.localize(name, word)

        return [local(word) for word in image.entrypoint + image.command]

    def places(self, name):
        """Where the volumes of a service are. What is mounted from docker/ is copied, once."""
        places = {}
        for volume in self.services[name].get("volumes", []):
            source, target = volume.split(":")[:2]
            place = places[target] = self.directory / source.replace(".", f"config-{name}")
            if not place.exists():
                if source.startswith("."):
                    shutil.copytree(DOCKER / source, place)
                else:
                    place.mkdir()
        return places

    def configure(self, name, target, file):
        config = self.places(name)[target] / file
        config.write_text(self.localize(name, config.read_text()))
        return config

    def localize(self, name, text):
        for target, place in self.places(name).items():
            text = re.sub(rf"(?<![\w/.]){re.escape(target)}(?![\w.-])", str(place), text)
        for named, address in self.addresses.items():
            text = text.replace(named, address)
        return re.sub(r"0\.0\.0\.0:\d+", "127.0.0.1:0", text).replace("0.0.0.0", "127.0.0.1")

    def expand(self, text):
        """`${NAME:-default}`, as compose does."""
        return re.sub(
            r"\$\{(\w+):-([^}]*)\}",
            lambda match: self.settings.get(match[1], match[2]),
            str(text),
        )
