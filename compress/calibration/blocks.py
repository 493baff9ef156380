"""A model of which one block at a time has its weights in memory.

The skeleton that Transformers builds from config.json is run as it is; no list of layer names or families. The blocks
are the longest list of modules that is not part of another. Where the model calls a block, a stub notes what it is
called with (masks, rotary embeddings, ALiBi biases, ...), and each block is later run with what was noted for it.

    stage 0        everything outside of the blocks that is not multiplied: embeddings
    stage 1 .. n   the blocks
    stage n + 1    what is multiplied outside of the blocks: the head
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tilepress.compress.calibration.experts import Expert, by_numbers, places_of_experts, source_pattern
from tilepress.formats.checkpoint import Checkpoint
from tilepress.formats.skeleton import Skeleton
from tilepress.formats.text import first_line
from tilepress.kernels import RecipeError

Read = Callable[[str], torch.Tensor]
"""Name in the checkpoint -> tensor, as it is to be used."""

Answer = Callable[[int, tuple[Any, ...], dict[str, Any]], torch.Tensor]
"""What stands in for block `index`, called with arguments and options, and gives states."""


class _Stop(Exception):
    """Ends a pass through the model that has done what it was for."""


class BlockModel:
    """See the module. All sums are in float32, in main memory.

    Attributes:
        count: number of blocks.
        config: of the model.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Build the skeleton and find its blocks.

        Raises:
            RecipeError: an architecture that can't be run block by block.
        """
        self._path = checkpoint.path
        architecture = next(iter(checkpoint.config.get("architectures") or ()), "a model without architecture")
        self._title = f"{checkpoint.path}: {architecture}"
        skeleton = Skeleton.of(checkpoint.config, real_buffers=True)
        if skeleton is None:
            raise self._refuse("Transformers can't build it")
        if skeleton.model.config.is_encoder_decoder:
            raise self._refuse("it has an encoder beside its decoder")
        self._skeleton = skeleton
        self.config = skeleton.model.config
        self._model = skeleton.model.requires_grad_(False).train(False)
        self._list, self._blocks = self._find_blocks()
        self.count = len(self._blocks)
        self._head: nn.Module | None = self._model.get_output_embeddings()
        self._targets = {name: skeleton.target(name) for name in checkpoint.infos}
        self._calls: dict[int, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}
        self._gives_tuple: bool | None = None
        self._experts = places_of_experts(skeleton, checkpoint.infos)
        if skeleton.model._can_set_experts_implementation():
            # One product an expert, which `experts` can tell from others.
            skeleton.model.set_experts_implementation("eager")

    def stage(self, name: str) -> int:
        """Stage of a tensor of the checkpoint."""
        inside = re.match(rf"{re.escape(self._list)}\.(\d+)\.", self._targets[name].name)
        if inside:
            return int(inside[1]) + 1
        return self.count + 1 if self.layer(name) is not None else 0

    def layer(self, name: str) -> nn.Module | None:
        """The linear layer whose weight the tensor `name` is; nothing if it is no such weight."""
        place = self._skeleton.find(name)
        if place is None or place.is_expert or place.is_rearranged or place.parameter != "weight":
            return None
        return place.module if isinstance(place.module, (nn.Linear, Conv1D)) else None

    def layers(self, stage: int, names: Iterable[str]) -> dict[str, nn.Module]:
        """Those of the tensors `names` that are weights of linear layers of one stage -> the layers."""
        in_stage = (name for name in names if self.stage(name) == stage)
        return {name: layer for name in in_stage if (layer := self.layer(name)) is not None}

    def experts(self, names: Iterable[str]) -> dict[str, Expert]:
        """Those of the tensors `names` that are matrices of experts which are merged on loading -> their places."""
        return {name: self._experts[name] for name in names if name in self._experts}

    def tables(self, names: Iterable[str]) -> dict[str, nn.Module]:
        """Those of the tensors `names` that are looked up in front of the blocks -> the modules that do so."""
        places = ((name, self._skeleton.find(name)) for name in names if self.stage(name) == 0)
        return {
            name: place.module
            for name, place in places
            if place is not None and place.parameter == "weight" and isinstance(place.module, nn.Embedding)
        }

    def tied_heads(self, names: Iterable[str]) -> dict[str, nn.Module]:
        """The one of the tensors `names` that the head multiplies with, but as which it is not stored -> the head."""
        ties = getattr(self._model, "all_tied_weights_keys", None) or {}
        sources = {source for name, source in ties.items() if self._is_of_head(name)}
        return {name: self._head for name in names if self._head and self._targets[name].name in sources}

    @contextmanager
    def loaded(self, stage: int, read: Read) -> Iterator[None]:
        """Give a block its weights for a while, or with stage 0 all but the blocks and the head."""
        module: nn.Module = self._model if stage == 0 else self._blocks[stage - 1]
        before = {name: value for name, value in module.named_parameters(remove_duplicate=False) if value.is_meta}
        sources: dict[str, list[str]] = {}
        for name, target in self._targets.items():
            inside = target.name.startswith(f"{self._list}.")
            wanted = not inside if stage == 0 else target.name.startswith(f"{self._list}.{stage - 1}.")
            if wanted and target.name in self._skeleton.known:
                sources.setdefault(target.name, []).append(name)
        try:
            for target_name, names in sources.items():
                if not self._is_of_head(target_name):
                    self._set(target_name, self._value(target_name, names, read))
            self._complete(stage)
            yield
        finally:
            for name, value in before.items():
                path, _, parameter = name.rpartition(".")
                module.get_submodule(path)._parameters[parameter] = value

    def enter(self, windows: Sequence[torch.Tensor], read: Read) -> list[torch.Tensor]:
        """What the first block is given for each window: [1, tokens, hidden]."""
        with self._explained(), self.loaded(0, read), torch.no_grad():
            return [self._first_input(window) for window in windows]

    def prepare(self, windows: Sequence[torch.Tensor], read: Read) -> None:
        """Note how the model calls its blocks for windows of each length; before any `run`."""
        with self._explained(), self.loaded(0, read), torch.no_grad():
            for window in windows:
                if len(window) not in self._calls:
                    self._note_calls(window, read)

    def run(self, stage: int, hidden: torch.Tensor) -> torch.Tensor:
        """Run a loaded block on one window's states [1, tokens, hidden]."""
        arguments, options = self._calls[hidden.shape[1]][stage - 1]
        with self._explained(), torch.no_grad():
            result = self._blocks[stage - 1](*_filled(arguments, hidden), **_filled_options(options, hidden))
            result = result[0] if isinstance(result, tuple) else result
            if not isinstance(result, torch.Tensor) or result.shape != hidden.shape:
                raise self._refuse("its blocks do not hand on states of one shape")
        return result.float()

    def leave(self, windows: Sequence[torch.Tensor], hidden: Sequence[torch.Tensor], read: Read) -> None:
        """Run what follows the blocks, up to the head's input, for each window and the last block's states."""
        with self._explained(), self.loaded(0, read), torch.no_grad():
            for window, states in zip(windows, hidden, strict=True):
                with self._stubs(_constantly(states)):
                    self._pass(window)

    def parameters(self, stage: int) -> dict[str, nn.Parameter]:
        """Tensors of the checkpoint that a loaded stage has taken as they are -> parameters."""
        found = {}
        for name, target in self._targets.items():
            if target.converter is None and target.name in self._skeleton.known and self.stage(name) == stage:
                path, _, parameter = target.name.rpartition(".")
                value = self._model.get_submodule(path)._parameters.get(parameter)
                if value is not None and not value.is_meta:
                    found[name] = value
        return found

    @contextmanager
    def with_head(self, read: Read) -> Iterator[None]:
        """Give everything outside of the blocks its weights for a while."""
        before = dict(self._head._parameters) if self._head is not None else {}
        ties = getattr(self._model, "all_tied_weights_keys", None) or {}
        with self.loaded(0, read):
            try:
                for name, target in self._targets.items():
                    if target.name in self._skeleton.known and self._is_of_head(target.name):
                        self._set(target.name, self._value(target.name, [name], read))
                for name, source in ties.items():
                    if self._is_of_head(name) and self._model.get_parameter(name).is_meta:
                        path, _, parameter = name.rpartition(".")
                        self._model.get_submodule(path)._parameters[parameter] = self._model.get_parameter(source)
                yield
            finally:
                if self._head is not None:
                    self._head._parameters.update(before)

    def predict(self, window: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Logits [tokens, vocabulary] for the last block's states, with gradients; inside of `with_head`."""
        with self._explained(), self._stubs(_constantly(states), ends_at_head=False):
            logits: torch.Tensor = self._model(input_ids=window[None], use_cache=False).logits[0]
        return logits

    def differentiate(self, stage: int, states: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Run a loaded block, and take the gradient of its result back to `states`; parameters collect theirs."""
        inputs = states.detach().requires_grad_()
        arguments, options = self._calls[states.shape[1]][stage - 1]
        with self._explained(), torch.enable_grad():
            result = self._blocks[stage - 1](*_filled(arguments, inputs), **_filled_options(options, inputs))
            result = result[0] if isinstance(result, tuple) else result
            torch.autograd.backward(result, gradient)
        assert inputs.grad is not None
        return inputs.grad

    def differentiate_entry(self, window: torch.Tensor, gradient: torch.Tensor) -> None:
        """Take the gradient of the first block's input back to the parameters in front, with stage 0 loaded."""
        with self._explained(), torch.enable_grad():
            torch.autograd.backward(self._first_input(window), gradient)

    def _find_blocks(self) -> tuple[str, nn.ModuleList]:
        lists = [(path, module) for path, module in self._model.named_modules() if isinstance(module, nn.ModuleList)]
        outer = [
            (path, module) for path, module in lists if not any(path.startswith(f"{other}.") for other, _ in lists)
        ]
        sizes = [sum(value.numel() for value in module.parameters()) for _, module in outer]
        if not outer or len(outer[sizes.index(max(sizes))][1]) == 0:
            raise self._refuse("no list of blocks is found in it")
        return outer[sizes.index(max(sizes))]

    def _first_input(self, window: torch.Tensor) -> torch.Tensor:
        found: list[torch.Tensor] = []

        def catch(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
            found.append(_states(args, kwargs).float())
            raise _Stop

        with self._stubs(catch):
            self._pass(window)
        if not found:
            raise self._refuse("it does not call its blocks one after the other")
        return found[0]

    def _note_calls(self, window: torch.Tensor, read: Read) -> None:
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def note(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
            if index != len(calls):
                raise self._refuse("it does not call its blocks one after the other")
            calls.append((args, kwargs))
            if len(calls) == self.count or self._gives_tuple is None:
                raise _Stop
            return _states(args, kwargs)

        if self._gives_tuple is None:
            # Only the first block itself can say whether blocks return states or a tuple that begins with them.
            with self._stubs(note):
                self._pass(window)
            args, kwargs = calls.pop()
            with self.loaded(1, read):
                self._gives_tuple = isinstance(self._blocks[0](*args, **kwargs), tuple)
        with self._stubs(note):
            self._pass(window)
        if len(calls) != self.count:
            raise self._refuse("it does not call its blocks one after the other")
        self._calls[len(window)] = [_without_states(args, kwargs) for args, kwargs in calls]

    def _pass(self, window: torch.Tensor) -> None:
        with suppress(_Stop):
            self._model(input_ids=window[None], use_cache=False)

    @contextmanager
    def _stubs(self, answer: Answer, ends_at_head: bool = True) -> Iterator[None]:
        """Let `answer` stand in for every block, and end a pass at the head."""

        def stub(index: int) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                states = answer(index, args, kwargs)
                return (states,) if self._gives_tuple else states

            return forward

        def stop(*_: Any, **__: Any) -> None:
            raise _Stop

        stubs: list[nn.Module] = list(self._blocks)
        for index, block in enumerate(self._blocks):
            block.forward = stub(index)
        if self._head is not None and ends_at_head:
            self._head.forward = stop
            stubs.append(self._head)
        try:
            yield
        finally:
            for module in stubs:
                del module.forward

    def _value(self, target_name: str, names: Sequence[str], read: Read) -> torch.Tensor:
        """The parameter as Transformers would compute it from the checkpoint's tensors."""
        converter = self._targets[names[0]].converter
        if converter is None:
            return read(names[0])
        found: dict[str, list[torch.Tensor]] = {pattern: [] for pattern in converter.source_patterns}
        for name in sorted(names, key=by_numbers):
            found[source_pattern(self._targets[name])].append(read(name))
        values: dict[str, Any] = dict(found)
        for operation in converter.operations:
            values = operation.convert(
                values,
                source_patterns=converter.source_patterns,
                target_patterns=converter.target_patterns,
                full_layer_name=target_name,
                model=self._model,
                config=self._model.config,
            )
        result = next(iter(values.values()))
        result = result[0] if isinstance(result, list) else result
        if len(values) != 1 or not isinstance(result, torch.Tensor):
            raise self._refuse(f"Transformers makes several parameters of {names[0]}")
        return result

    def _set(self, name: str, value: torch.Tensor) -> None:
        path, _, parameter = name.rpartition(".")
        module = self._model.get_submodule(path)
        value = value.float() if value.is_floating_point() else value
        if parameter in module._parameters:
            module._parameters[parameter] = nn.Parameter(value, requires_grad=False)
        else:
            module._buffers[parameter] = value

    def _is_of_head(self, name: str) -> bool:
        return self._head is not None and self._model.get_submodule(name.rpartition(".")[0]) is self._head

    def _complete(self, stage: int) -> None:
        """Follow ties, and make sure that nothing is left without weights."""
        if stage == 0:
            for name, source in (getattr(self._model, "all_tied_weights_keys", None) or {}).items():
                value = self._model.get_parameter(source)
                if self._model.get_parameter(name).is_meta and not value.is_meta and not self._is_of_head(name):
                    self._set(name, value)
        prefix = f"{self._list}.{stage - 1}." if stage else ""
        for name, value in self._model.named_parameters():
            inside = name.startswith(prefix) if stage else not name.startswith(f"{self._list}.")
            if inside and value.is_meta and not self._is_of_head(name):
                raise RecipeError(
                    f"{self._path}: has no tensor for {name}; the checkpoint does not fit its config.json"
                )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError) as problem:
            raise self._refuse(f"running it block by block ends in {first_line(problem)}") from problem

    def _refuse(self, reason: str) -> RecipeError:
        return RecipeError(f"{self._title} can't be calibrated ({reason}); compress it without text")


def _constantly(states: torch.Tensor) -> Answer:
    return lambda index, args, kwargs: states


def _states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    states: torch.Tensor = args[0] if args else kwargs["hidden_states"]
    return states


def _without_states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return ((None, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": None})


def _filled(args: tuple[Any, ...], states: torch.Tensor) -> tuple[Any, ...]:
    return (states, *args[1:]) if args else ()


def _filled_options(kwargs: dict[str, Any], states: torch.Tensor) -> dict[str, Any]:
    return {**kwargs, "hidden_states": states} if "hidden_states" in kwargs else kwargs
