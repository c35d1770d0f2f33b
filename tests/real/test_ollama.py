"""A really tuned model, imported into the real Ollama, answers there as it does in llama-server."""

import json

from tests.conftest import RunCpuft
from tests.ollama.server import OllamaServer
from tests.real.conftest import MAX_TOKENS, Shipped, Tuned
from tests.real.models import threads

NAME = "appointments:v1"


def test_it_answers_as_in_llama_server(
    tuned: Tuned, shipped: Shipped, run_cpuft: RunCpuft, ollama_server: OllamaServer
) -> None:
    """`cpuft import-ollama` compares the prompts; here the answers to held-out questions are compared, too."""
    assert shipped.report.picked is not None
    in_llama_server = shipped.answers[shipped.report.variants.index(shipped.report.picked)]
    done = run_cpuft("import-ollama", shipped.file, "--name", NAME, "--host", ollama_server.host, "--json")
    assert done.returncode == 0, done.stderr
    imported = json.loads(done.stdout)
    assert (imported["family"], imported["n_prompts"]) == ("chatml", 4)
    options = {"temperature": 0, "num_predict": MAX_TOKENS, "num_ctx": 1024, "num_thread": threads()}
    asked = [chat[:1] for chat in tuned.held_out]
    answers = [ollama_server.client.chat(NAME, question, options=options).message.content for question in asked]
    ollama_server.client.delete(NAME)
    assert answers == in_llama_server
