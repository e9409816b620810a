"""Runs a trainer: step after step, interrupted only between two, with a checkpoint now and then and at the end."""

from __future__ import annotations

import atexit
import gc
import json
import math
import shutil
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Literal, Protocol

import torch
from torch import Tensor

from studio.config import to_dict
from studio.model.dit import WanDiT
from studio.model.shards import write_shards
from studio.model.weights import Models, folder_of, save
from studio.train import runtime
from studio.train.learner import start_trackers
from studio.train.lora import lora_state
from studio.train.memory import advice, check_memory, free_memory
from studio.train.monitor import Monitor, TextMonitor, in_notebook, used_memory
from studio.train.networks import TrainedNetworks
from studio.train.ranks import shared_sum
from studio.train.recipe import TrainConfig
from studio.train.sharding import whole_state
from studio.train.snapshots import agreed, held, load_snapshot, newest, require_shared, save_snapshot
from studio.train.trainer import Trainer

__all__ = ["Playing", "Run", "run"]


class Playing(Protocol):
    """What plays and can rest: a session or a studio."""

    @property
    def state(self) -> str: ...

    def play(self) -> None:
        """Go on."""
        ...

    def pause(self) -> None:
        """Rest."""
        ...


State = Literal["ready", "running", "paused", "stopped", "finished", "failed"]

_GIB = 2**30
# How often a pause looks whether it is over.
_GLANCE = 0.05
# A terminal interrupts every process of a launch, and the launcher hands the interrupt on to them once more.
_ECHO = 2.0


class Run:
    """A training that can be watched, paused, stopped and gone on with.

    Args:
        trainer: The trainer; takes over the newest checkpoint of its folder.
        report: Takes a line of progress now and then.
        monitor: Shows the progress; `None` says it by `report`.
        writes: Whether the generator's weights are written when it ends.
        pausing: Sessions or studios that rest while it trains; all others play on beside it.

    Raises:
        MemoryError: If it will not fit, with settings that would.
        ValueError: If the checkpoint is damaged or of another training.

    Attributes:
        history: One row a step, ready for a data frame: step, seconds, GiB in use, losses and gradient norms.
        memory: What it will need and what is there, in words.
    """

    def __init__(
        self,
        trainer: Trainer,
        report: Callable[[str], None] = runtime.silent,
        monitor: Monitor | None = None,
        *,
        writes: bool = False,
        pausing: Playing | Iterable[Playing] = (),
    ) -> None:
        self.trainer, self.report, self.writes = trainer, report, writes
        self.pausing: tuple[Playing, ...] = tuple(pausing) if isinstance(pausing, Iterable) else (pausing,)
        self.monitor = monitor or TextMonitor(report)
        self.folder = Path(trainer.config.out)
        self.history: list[dict[str, float]] = []
        self._stop, self._pause = threading.Event(), threading.Event()
        self._state: State = "ready"
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._torn = False
        self._until: float | None = None
        self._turns, self._hold = _Turns(), ExitStack()
        if trainer.config.export:
            self._require_whole()
        free = free_memory(trainer.device)
        need = check_memory(trainer.config, trainer.networks, free)
        self.memory = f"will need about {need}, {(free + need.weights) / _GIB:.2f} GiB are there"
        self.report(self.memory)
        found = agreed(newest(self.folder / "checkpoints"))
        require_shared(self.folder / "checkpoints", trainer.accelerator)
        if found is not None:
            self.history = load_snapshot(trainer, found)
            self.report(f"goes on from step {trainer.done}")

    def __repr__(self) -> str:
        done, steps = self.trainer.done, self.config.steps
        return f"<{type(self.trainer).__name__} {self.state}, step {done} of {steps}, in {self.folder}>"

    @property
    def config(self) -> TrainConfig:
        """The training's configuration."""
        return self.trainer.config

    @property
    def networks(self) -> TrainedNetworks:
        """The networks as they are now."""
        return self.trainer.networks

    @property
    def state(self) -> State:
        """Whether it is "ready", "running", "paused", "stopped", "finished" or "failed"."""
        return "paused" if self._state == "running" and self._pause.is_set() else self._state

    @property
    def interrupted(self) -> bool:
        """Whether it ended before its last step."""
        return self._state in ("stopped", "failed")

    @property
    def time_left(self) -> float | None:
        """Seconds until the configuration's time is over, `None` without one or before it has begun."""
        return None if self._until is None else max(0.0, self._until - time.monotonic())

    # -- control --------------------------------------------------------------------------------------------------

    def go(self) -> Run:
        """Train until the configuration's last step, or until it is stopped or interrupted.

        Returns:
            Itself.

        Raises:
            MemoryError: If memory runs out, with advice.
            RuntimeError: If the training diverges, or is running already.
        """
        self._begin()
        self._work()
        return self

    def start(self) -> Run:
        """Train in a thread of its own and return at once; see `wait`.

        Returns:
            Itself.

        Raises:
            RuntimeError: If it is running already.
        """
        self._begin()
        self._thread = threading.Thread(target=self._guarded, name="training", daemon=True)
        # A thread that computes while the interpreter goes down can crash it; this ends it first.
        atexit.register(_end, weakref.ref(self))
        self._thread.start()
        return self

    def wait(self, timeout: float | None = None) -> Run:
        """Wait for a training in the background; an interrupt meanwhile ends it after its current step.

        Args:
            timeout: Most seconds to wait, `None` for no limit.

        Returns:
            Itself, running or not.

        Raises:
            Exception: What the training raised, if it failed.
        """
        if self._thread is not None and self._thread is not threading.current_thread():
            try:
                self._thread.join(timeout)
            except KeyboardInterrupt:
                self._stop.set()
                self._thread.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self

    def pause(self) -> None:
        """Hold after the current step, with everything kept where it is; may be called from any thread."""
        self._pause.set()

    def resume(self, wait: bool | None = None) -> Run:
        """Go on: after a pause at once, after a stop from the step it ended with.

        Args:
            wait: Whether to return at the end of a training that had ended; `None`: as it was started.

        Returns:
            Itself.

        Raises:
            RuntimeError: If the training diverges.
        """
        self._pause.clear()
        if self._state != "running":
            behind = self._thread is not None if wait is None else not wait
            self.start() if behind else self.go()
        return self

    def stop(self, wait: bool = True) -> None:
        """End after the current step, with a checkpoint; may be called from any thread.

        Args:
            wait: Whether to wait for the end of a training in the background.
        """
        self._stop.set()
        if wait and self._thread is not None:
            self.wait()

    # -- results --------------------------------------------------------------------------------------------------

    @property
    def preview_prompt(self) -> str:
        """What the previews show: a prompt of the training."""
        return self.trainer.prompts(0)[0]

    def preview(self, prompt: str | None = None) -> Tensor:
        """Let the generator as it is now make a clip.

        Args:
            prompt: What to show; `None`: a prompt of the training.

        Returns:
            Pixels `[T, H, W, 3]` uint8 on the CPU.

        Raises:
            RuntimeError: If the networks have no VAE.
        """
        trainer, vae = self.trainer, self.networks.vae
        if vae is None:
            raise RuntimeError("a preview needs a VAE; give the networks one")
        text = self.networks.encode([self.preview_prompt if prompt is None else prompt]).to(trainer.device)
        with torch.no_grad(), self.averaged():
            pixels = vae.decode(trainer.sample(text, "preview").to(next(vae.parameters()).dtype))[0]
        return ((pixels.float().movedim(1, -1) + 1) * 127.5).round().clamp(0, 255).to("cpu", torch.uint8)

    def export(self, folder: Path | str | None = None, dtype: torch.dtype = torch.float16) -> Path:
        """Write the generator, averaged where there is an average, as a whole model that `studio.open` opens.

        The probe of the model that it began with, if it has one, comes along. Every process calls it, and the main one
        writes.

        Args:
            folder: Where to; `None`: `model` in the run's folder.
            dtype: Type of the weights in the files.

        Returns:
            The folder.

        Raises:
            RuntimeError: If the networks have no VAE or no text encoder to be written.
        """
        self._require_whole()
        nets = self.networks
        assert nets.vae is not None and nets.text is not None
        folder = self.folder / "model" if folder is None else Path(folder)
        config = self.trainer.exported_config
        with self.averaged():
            state = self.trainer.exported_state()
            if not self.trainer.accelerator.is_main_process:
                return folder
            with torch.device("meta"):
                dit = WanDiT(config.dit)
            dit.load_state_dict({name: value.detach() for name, value in state.items()}, strict=True, assign=True)
            save(Models(config=config, dit=dit, vae=nets.vae, text=nets.text), folder, dtype)
        self._hand_on_probe(folder)
        return folder

    def _require_whole(self) -> None:
        if self.networks.vae is None or self.networks.text is None:
            raise RuntimeError(
                "a whole model needs VAE and text encoder; give the networks `vae` and `text`, or set `export` to False"
            )

    def _hand_on_probe(self, folder: Path) -> None:
        """What reads the pictures of the model that it began with reads those of this one."""
        try:
            probe = folder_of(self.config.generator) / "probe.safetensors"
        except (FileNotFoundError, ValueError):
            return
        if probe.is_file() and not (folder / probe.name).exists():
            shutil.copyfile(probe, folder / probe.name)

    def save_generator(self) -> list[Path]:
        """Write the generator's weights alone, averaged where there is an average, and the configuration.

        Every process calls it, and the main one writes.

        Returns:
            The files: `generator*.safetensors` with all weights, or with the adapters alone under LongLive's names.
        """
        dit = self.networks.generator
        with self.averaged():
            kind, state = ("dit", whole_state(dit)) if self.config.lora is None else ("lora", lora_state(dit))
            if not self.trainer.accelerator.is_main_process:
                return []
            told = {"kind": kind, "config": json.dumps(to_dict(self.trainer.exported_config))}
            files = write_shards(self.folder, "generator", state, metadata=told)
        runtime.write_json(self.folder / "config.json", to_dict(self.config))
        return [*files, self.folder / "config.json"]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the generator has its averaged weights, where there is an average; as `preview` and `export` do.

        A training in the background holds between two steps meanwhile.
        """
        with self._turns.taken():
            average = self.trainer.average
            with nullcontext() if average is None else average.shown(self.networks.generator):
                yield

    # -- the loop -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._state == "running":
            raise RuntimeError("the training is running; call `wait()` or `stop()` first")
        if self._torn:
            found = newest(self.folder / "checkpoints")
            if found is None:
                raise RuntimeError("the training ended within a step, before its first checkpoint; begin a new run")
            self.history = load_snapshot(self.trainer, found)
            self._torn = False
        with ExitStack() as hold:
            if self.trainer.accelerator.is_main_process:
                hold.enter_context(held(self.folder))
            self._stop.clear()
            self._pause.clear()
            # Here, where the caller is: what a thread displays belongs to no cell.
            self.monitor.begin(self)
            self._error, self._state, self._hold = None, "running", hold.pop_all()

    def _guarded(self) -> None:
        try:
            self._work()
        except BaseException as error:  # It is raised where somebody waits.
            self._error = error

    def _work(self) -> None:
        with self._hold:
            self._train_and_tell()

    def _train_and_tell(self) -> None:
        self._until = None if self.config.seconds is None else time.monotonic() + self.config.seconds
        resting = [one for one in self.pausing if one.state in ("warming", "playing", "waiting")]
        for one in resting:
            one.pause()
        said = ""
        try:
            start_trackers(self.trainer.accelerator, self.config)
            said = self._train()
        finally:
            if self._state == "running":
                self._state = "failed"
            self.monitor.end(self)
            if self.config.trackers:
                self.trainer.accelerator.end_training()
            for one in resting:
                self._play_on(one)
        if said:
            # Outside the handler: the error's frames, which held the step's tensors, are gone by now.
            raise MemoryError(self._out_of_memory(said))

    def _play_on(self, one: Playing) -> None:
        try:
            one.play()
        except Exception as error:  # Somebody closed it meanwhile, which is nothing to the training.
            self.report(f"{one!r} does not play on: {error}")

    def _train(self) -> str:
        """Train until the end or an interruption; returns what was said if memory ran out, which leaves it failed."""
        try:
            with _ending_between_steps(self._stop):
                while self.trainer.done < self.config.steps and not self._stopping():
                    self._one()
                # What was learnt is written as whole as the steps are: seconds, after what may have been days.
                self._save()
                if self.writes:
                    self.save_generator()
                if self.config.export:
                    self.export()
            self._state = "finished" if self.trainer.done >= self.config.steps else "stopped"
        except (RuntimeError, MemoryError) as error:
            self._torn = True
            if not _ran_out(error):
                raise
            return str(error).splitlines()[0] if str(error) else type(error).__name__
        except BaseException:
            self._torn = True
            raise
        return ""

    def _out_of_memory(self, said: str) -> str:
        self.trainer.release()
        gc.collect()
        if self.trainer.device.type == "cuda":
            torch.cuda.empty_cache()
        return f"memory ran out in step {self.trainer.done + 1} ({said}); {advice(self.config)}"

    def _stopping(self) -> bool:
        """Whether any process was asked to stop; all of them end after the same step, and all wait for a pause."""
        while self._pause.is_set() and not self._stop.is_set():
            time.sleep(_GLANCE)
        late = self._until is not None and time.monotonic() >= self._until
        return shared_sum(float(self._stop.is_set() or late)) > 0

    def _one(self) -> None:
        began = time.perf_counter()
        with self._turns.taken():
            metrics = self.trainer.step()
        done, config = self.trainer.done, self.config
        seconds = time.perf_counter() - began
        row = {"step": done, "seconds": seconds, "gib": used_memory(self.trainer.device) / _GIB, **metrics}
        self.history.append(row)
        if config.trackers:
            self.trainer.accelerator.log(metrics, step=done)
        self.monitor.step(self, row)
        if done % config.save_every == 0:
            self._save()
        if config.preview_every and done % config.preview_every == 0 and self.networks.vae is not None:
            self.monitor.preview(self, self.preview())

    def _save(self) -> None:
        folder = self.folder / "checkpoints"
        found = newest(folder)
        if found is None or not found.name.endswith(f"-{self.trainer.done:08d}"):
            with self._turns.taken():
                save_snapshot(self.trainer, folder, self.history)


class _Turns:
    """The networks are one thread's at a time; who waits for them comes before who has just had them."""

    def __init__(self) -> None:
        self._next, self._held, self._owner = threading.Lock(), threading.Lock(), 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Have the networks inside; may be nested."""
        if self._owner == threading.get_ident():
            yield
            return
        with self._next:
            self._held.acquire()
        self._owner = threading.get_ident()
        try:
            yield
        finally:
            self._owner = 0
            self._held.release()


def run(
    trainer: Trainer,
    report: Callable[[str], None] | None = None,
    *,
    wait: bool = True,
    show: bool | None = None,
    pausing: Playing | Iterable[Playing] = (),
) -> Run:
    """Train to the end, or to the interruption, and write the generator.

    Args:
        trainer: The trainer.
        report: Takes a line of progress now and then; `None` writes it where this is no notebook.
        wait: Whether to return at the end; else at once, with the training going on in the background.
        show: Whether to show progress as a widget; `None`: in a notebook.
        pausing: Sessions or studios that rest while it trains; all others play on beside it.

    Returns:
        The run.

    Raises:
        MemoryError: If it will not fit, with settings that would.
        RuntimeError: If the training diverges.
        ValueError: If a checkpoint in the folder is damaged or of another training.
    """
    monitor: Monitor | None = None
    if report is None:
        report = runtime.silent if in_notebook() else runtime.report
    if show or (show is None and in_notebook() and trainer.accelerator.is_main_process):
        from studio.train.display import NotebookMonitor

        monitor = NotebookMonitor(report)
    current = Run(trainer, report, monitor, writes=True, pausing=pausing)
    return current.go() if wait else current.start()


def _end(reference: weakref.ref[Run]) -> None:
    current = reference()
    if current is not None and current._thread is not None and current._thread.is_alive():
        current._stop.set()
        current._thread.join()


def _ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out: PyTorch has a class for it on GPUs, elsewhere only words."""
    said = str(error).lower()
    words = ("out of memory", "alloc_failed", "can't allocate memory", "not enough memory")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in said for word in words)


@contextmanager
def _ending_between_steps(stop: threading.Event) -> Iterator[None]:
    """Turn the first interrupt into a request to stop; a second one, unless it is the first one's echo, interrupts.

    One that comes when the steps are over asks for nothing more: what is written then is written to its end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    first = -math.inf

    def interrupted(number: int, frame: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if stop.is_set() and now - first > _ECHO:
            raise KeyboardInterrupt
        if not stop.is_set():
            first = now
        stop.set()

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
