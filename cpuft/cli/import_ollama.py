"""`cpuft import-ollama`."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path

import click

from cpuft.cli.options.model import model_argument
from cpuft.cli.progress import Bars
from cpuft.ollama.importing import Imported, ImportJob, import_model
from cpuft.ollama.modelfile import Parameters, read_system, write_modelfile

FILE = click.Path(path_type=Path)
DEFAULT = Parameters()


@click.command("import-ollama")
@model_argument()
@click.option("--name", required=True, help="What Ollama shall call the model, such as qwen25-ba-finetuned:v1.")
@click.option("--system-file", type=FILE, help="A text file: the system prompt of conversations that have none.")
@click.option("--modelfile-only", type=FILE, metavar="PATH", help="Write a Modelfile there and import nothing.")
@click.option("--host", help="Where Ollama listens, such as 127.0.0.1:11434.  [default: OLLAMA_HOST]")
@click.option("--temperature", type=click.FloatRange(0, 10), default=DEFAULT.temperature, show_default=True)
@click.option("--top-p", type=click.FloatRange(0, 1), default=DEFAULT.top_p, show_default=True)
@click.option("--top-k", type=click.IntRange(0), default=DEFAULT.top_k, show_default=True)
@click.option("--num-ctx", type=click.IntRange(1), help="Tokens of context.  [default: Ollama's choice]")
@click.option("--replace", is_flag=True, help="Replace a model of this name.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def import_ollama(
    model: Path,
    name: str,
    system_file: Path | None,
    modelfile_only: Path | None,
    host: str | None,
    temperature: float,
    top_p: float,
    top_k: int,
    num_ctx: int | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Import a model into Ollama, and prove that Ollama asks it as it was trained.

    MODEL is a GGUF file, or any other reference that --model takes elsewhere. Ollama takes no adapters: `cpuft merge`
    yours first.

    Ollama gets the model's chat format as a template, its stop texts, and SYSTEM. Afterwards its prompts for four
    conversations are compared with the training text; a difference is an error.

    \b
    Examples:
      cpuft import-ollama tuned.gguf --name qwen25-ba-finetuned:v1
      cpuft import-ollama tuned.gguf --name ba:v2 --system-file role.txt --num-ctx 8192
      cpuft import-ollama tuned.gguf --name ba:v2 --modelfile-only Modelfile && ollama create ba:v2 -f Modelfile
    """
    parameters = Parameters(temperature, top_p, top_k, num_ctx)
    system = None if system_file is None else read_system(system_file)
    if modelfile_only is not None:
        modelfile = write_modelfile(modelfile_only, model, system=system, parameters=parameters)
        facts = {"modelfile": str(modelfile_only), "family": modelfile.family}
        command = shlex.join(["ollama", "create", name, "-f", str(modelfile_only)])
        click.echo(json.dumps(facts) if as_json else f"{modelfile_only}: {command}")
        return
    with Bars() as progress:
        imported = import_model(ImportJob(model, name, system, parameters, host, replace), progress)
    click.echo(json.dumps(asdict(imported), ensure_ascii=False) if as_json else _summary(imported))


def _summary(imported: Imported) -> str:
    family = imported.family or "unknown"
    source = "a Go template" if imported.template else "the template in its file"
    compared = f"{imported.n_prompts} prompts equal the training text" if imported.note is None else imported.note
    return f"{imported.name}: {imported.n_bytes / 1e6:.1f} MB; chat format {family}, by {source}; {compared}"
