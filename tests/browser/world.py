"""A world for one browser test: a home with the sample shop, fake models, the real daemon on a port of its own."""

import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import threading

from models import Models

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEVO = os.environ.get("DEVO_BIN", str(ROOT / "target/debug/devo"))


class World:
    def __init__(self, port=0):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="devo-browser-"))
        self.home = self.dir / "home"
        self.models = Models()
        keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self.env = {**keep, "DEVO_HOME": str(self.home), "ANTHROPIC_API_KEY": "sk-test-0123456789",
                    "GEMINI_API_KEY": "sk-test-0123456789", "ANTHROPIC_BASE_URL": self.models.url,
                    "GOOGLE_GEMINI_BASE_URL": self.models.url, "XDG_DATA_HOME": str(self.dir / "data")}
        self.devo("init", str(self.home))
        self.remote = self.shop()
        config = (
            f"repos:\n  tienda:\n    url: {self.remote}\n    base: development\n"
            "    checks: {test: cargo test --offline --lib --tests}\n"
            f"web: {{listen: '127.0.0.1:{port}'}}\n"
        )
        (self.home / "devo.yaml").write_text(config)
        (self.home / "pipelines/fails.yaml").write_text(
            "name: fails\ndescription: a step that fails the first time\ninputs: {task: {type: string}}\n"
            "steps:\n  ready: {type: shell, run: echo ready}\n"
            "  check: {type: shell, needs: ready, run: 'test -e flag || { echo > flag; echo {{ inputs.task }} >&2; exit 3; }'}\n"
        )
        self.daemon = None
        self.start()

    def devo(self, *words, check=True):
        done = subprocess.run([DEVO, *words], env=self.env, capture_output=True, text=True, cwd=self.dir)
        if check and done.returncode != 0:
            raise AssertionError(f"devo {words}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def shop(self):
        source = self.dir / "source"
        shutil.copytree(ROOT / "src/frontends/cli/demo/tienda", source)
        for path in list(source.rglob("*.in")):
            name = path.name[: -len(".in")]
            path.rename(path.with_name(".gitignore" if name == "gitignore" else name))
        who = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
        for words in (["init", "-q", "-b", "main"], ["add", "-A"], [*who, "commit", "-q", "-m", "Una tienda"],
                      ["branch", "development"], ["clone", "-q", "--bare", ".", "../remote.git"]):
            subprocess.run(["git", *words], cwd=source, check=True)
        return self.dir / "remote.git"

    def start(self):
        self.daemon = subprocess.Popen([DEVO, "serve"], env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                       text=True, cwd=self.dir)
        said = ""
        for line in self.daemon.stderr:
            said += line
            # As a note for people or as a line of the log: the address is the same.
            if (line.startswith("web: ") or 'channel="web"' in line) and " http://" in line:
                self.url = "http://" + line.split(" http://")[1].split()[0]
                # Nobody reads on: what it says later must not fill the pipe.
                threading.Thread(target=self.daemon.stderr.read, daemon=True).start()
                return
        raise AssertionError(f"the daemon did not start:\n{said}")

    def stop(self):
        self.daemon.send_signal(signal.SIGTERM)
        self.daemon.wait(timeout=60)

    def link(self):
        return self.devo("login-link")

    def close(self):
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)
