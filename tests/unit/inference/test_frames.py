"""What travels between a worker and the process of the embedded engines comes out as it went in."""

from __future__ import annotations

from services.chassis.errors import Failure, Reason
from services.inference.engine import (
    Capability,
    Delta,
    Device,
    Embeddings,
    End,
    Files,
    FinishReason,
    Generation,
    Message,
    Model,
    ModelState,
    Passage,
    Residence,
    Role,
    Sampling,
    Usage,
    UsageSource,
)
from services.inference.form import (
    Form,
    Image,
    JsonSchema,
    OneOf,
    Output,
    Regex,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolUse,
)
from services.inference.workers import frames


def generation(output: Output | None) -> Generation:
    call = ToolCall("c1", "weather", '{"city": "Kazan"}')
    return Generation(
        model="tiny",
        messages=(
            Message(Role.USER, "look", images=(Image(b"\x89PNG\0", "image/png"), Image(url="https://x/y.png"))),
            Message(Role.ASSISTANT, "", tool_calls=(call,)),
            Message(Role.TOOL, "18 °C", tool_call="c1"),
        ),
        passages=(Passage("It rains.", "Weather"),),
        sampling=Sampling(temperature=0.0, top_k=5, seed=-1),
        max_tokens=7,
        stop=("\n",),
        form=Form(
            tools=(Tool("weather", "tells it", "{}"),),
            tool_use=ToolUse.REQUIRED,
            tool_name="weather",
            single_call=True,
            output=output,
            top_logprobs=2,
            alternatives=3,
        ),
    )


def test_a_generation() -> None:
    for output in (JsonSchema("{}", "a"), Regex("[a-z]+"), OneOf(("yes", "no")), None):
        asked = frames.Generating("llamacpp", generation(output))
        read = frames.read_generating(frames.encode(asked))
        assert read == asked
        # Domain code compares these by identity.
        assert read.generation.messages[0].role is Role.USER
        assert read.generation.form.tool_use is ToolUse.REQUIRED


def test_what_engines_say() -> None:
    top = (TokenLogprob("b", -1.5), TokenLogprob("c", -2.0))
    delta = Delta("ab", 2, 1, (ToolCallDelta(0, "c1", "weather", "{"),), (TokenLogprob("a", -0.1, top),))
    end = End(FinishReason.TOOL_CALLS, Usage(3, None, UsageSource.COUNTED), (FinishReason.STOP, FinishReason.LENGTH))
    model = Model(
        "tiny",
        "llamacpp",
        (Capability.GENERATION, Capability.TOOLS),
        ModelState.LOADING,
        languages=("en",),
        residence=Residence(Device.CPU, 10, 2, 1.5),
        files=Files("F16", "gguf", "tiny.gguf", 1.0, 2.0),
    )
    for said in (
        frames.More(delta),
        frames.Over(end),
        frames.Listed((model,), 4),
        frames.Counted(2, (1, 2), UsageSource.COUNTED),
    ):
        assert frames.read_answer(frames.encode(said)) == said


def test_vectors_and_none() -> None:
    embeddings = Embeddings([[0.5, -1.25, 0.0], [1.0, 2.0, 3.0]], 9, UsageSource.COUNTED)
    read = frames.read_answer(frames.encode(frames.Vectors.of(embeddings)))
    assert isinstance(read, frames.Vectors)
    assert read.unpacked() == embeddings
    assert frames.Vectors.of(Embeddings([], None, UsageSource.ESTIMATED)).unpacked().vectors == []


def test_a_failure() -> None:
    failure = Failure(Reason.MODEL_IN_USE, "model: in use", metadata={"model": "tiny"}, retry_after=5.0)
    read = frames.read_answer(frames.encode(frames.Failed.of(failure)))
    assert isinstance(read, frames.Failed)
    again = read.failure()
    assert again.reason is Reason.MODEL_IN_USE
    assert (again.message, again.metadata, again.retry_after) == (failure.message, failure.metadata, failure.retry_after)
