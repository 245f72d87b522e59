"""A run's live view, whatever the front end can show: a panel, an image, or a line of text. And the figure that stays."""

from __future__ import annotations

import secrets
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from nbcontainer.engine import Run
from nbcontainer.errors import SpecError
from nbcontainer.events import Display, Event, InputRequest, Output
from nbcontainer.notebook.ear import Ear, LoopEar, PumpEar
from nbcontainer.notebook.surroundings import SURROUNDINGS
from nbcontainer.notebook.view import View
from nbcontainer.spec import Limits

if TYPE_CHECKING:
    from nbcontainer.notebook.blit import BlittedImage
    from nbcontainer.notebook.panel import PanelLink
    from nbcontainer.notebook.pump import MessagePump
    from nbcontainer.result import Result

SHOW_AFTER_SECONDS = 0.5
WARM_AFTER_SECONDS = 0.15
"""A cell that takes this long may need a figure at its end."""
TICK_SECONDS = 0.1
AT_FULL_RATE = 10
"""With more views than this, each is drawn less often; no row gets lost."""
READ_SECONDS = 0.3
"""Between readings of pressure, network and the host: a dozen files, where a sample takes half as many, kept open."""
TEXT_SECONDS = 1.0
SILENT_SECONDS = 3.0
"""A front end that has been listened to for this long, and has not said that it has drawn the panel, has no anywidget."""
BESIDE = "Clicks are heard between cells, and while a cell in a container runs."
Place: TypeAlias = Callable[..., None]
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


class Live:
    """``live``: True shows it at once, False never, None when the run takes longer than half a second. ``place`` is a way to :func:`show`."""

    def __init__(self, shell: Any, live: bool | None, place: Place | None = None) -> None:
        self._shell, self._live, self._place = shell, live, place or show
        self._view = View(Limits())
        self._run: Run | None = None
        self._front: _Front | None = None
        self._begin = self._tick_at = self._read_at = time.monotonic()

    # ---- the run says

    def on_start(self, run: Run) -> None:
        self._run = run
        self._view = View(run.spec.limits)
        self._begin = time.monotonic()
        if self._live is not False or is_kernel(self._shell):
            run.attend(self.tick)

    def open_beside(self, run: Run) -> None:
        """In a kernel, of a run in the background: whoever calls :meth:`tick` must be the one who calls :meth:`fold`."""
        from nbcontainer.notebook.panel import PanelLink

        self._run, self._view, self._begin = run, View(run.spec.limits), time.monotonic()
        link = PanelLink(self._view, run, _title(run), controls=True, note=BESIDE)
        self._front = _KernelFront(self._view, link, self._place, LoopEar(self._shell.kernel))
        _SHOWN.add(self)

    def make_room(self, event: Event) -> None:
        """Before an event is shown: it may go to where the view is."""
        if self._front is not None and isinstance(event, Output | Display | InputRequest):
            self._front.make_room()

    def fold(self, event: Event) -> None:
        self._view.fold(event)
        if isinstance(event, Display) and event.kind == "clear" and self._front is not None:
            self._front.show_again()

    def tick(self) -> None:
        """Ten times a second, in the thread that runs the cell."""
        now = time.monotonic()
        assert self._run is not None
        if is_kernel(self._shell) and now - self._begin >= WARM_AFTER_SECONDS:
            _WARM_UP.begin()
        if self._live is False:
            return
        if self._front is None:
            if self._live or now - self._begin >= SHOW_AFTER_SECONDS:
                self._front = _open_front(self._shell, self._view, self._run, self._place)
                _SHOWN.add(self)
            return
        if now < self._tick_at:
            return
        self._tick_at = now + TICK_SECONDS * max(0.9, len(_SHOWN) / AT_FULL_RATE)
        if now >= self._read_at:
            self._read_at = now + READ_SECONDS
            try:
                self._view.look_around(SURROUNDINGS.host(), self._run.readings())
            except SpecError:
                return  # it has just ended
        self._front.tick(now)

    # ---- the end

    def close(self, result: Result | None, worth_a_figure: bool, card: dict[str, str] | None = None) -> None:
        """Replace the live view by the figure that stays; ``result`` is None when the run failed for reasons of ours.

        ``card``: a MIME bundle that comes below it.
        """
        front, self._front = self._front, None
        _SHOWN.discard(self)
        wanted = result is not None and (front is not None or worth_a_figure) and is_kernel(self._shell)
        figure = _figure(result) if result is not None and wanted else _Figure()
        if front is not None:
            front.close(figure, card)
        elif figure.bundle:
            self._place(figure.bundle, figure.metadata)
            self._place(figure.caption)
        if card is not None:
            self._place(card)


_SHOWN: set[Live] = set()
"""The live views of this process; each leaves it when its run ends."""


def is_kernel(shell: Any) -> bool:
    """Whether the shell belongs to a Jupyter kernel, and not to a terminal."""
    return type(shell).__name__ == "ZMQInteractiveShell"


def show(bundle: dict[str, Any], metadata: dict[str, Any] | None = None, **how: Any) -> None:
    import IPython.display

    display: Any = IPython.display.display
    display(bundle, raw=True, metadata=metadata or {}, **how)


@dataclass(frozen=True)
class _Figure:
    """What stays of a live view; everything is empty where there is nothing to show."""

    bundle: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    caption: dict[str, str] = field(default_factory=lambda: {"text/plain": ""})
    """The same in words, as an output of its own: JupyterLab passes no alternative text on, and neither does GitHub."""


class _WarmUp:
    """Matplotlib gets ready in a thread of its own, once, while a cell runs that does not wait for it."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._draw, name="nbcontainer-warm-up", daemon=True)
            self._thread.start()

    @staticmethod
    def _draw() -> None:
        from nbcontainer.notebook.figure import warm_up

        with _DRAWING:
            warm_up()


_WARM_UP = _WarmUp()
_DRAWING = threading.Lock()
"""Matplotlib is for one thread at a time."""


def _figure(result: Result) -> _Figure:
    from nbcontainer.notebook.figure import alt_text, caption, png

    text = alt_text(result)
    with _DRAWING:
        picture = png(result)
    return _Figure({"image/png": picture, "text/plain": text}, {"image/png": {"alt": text}}, caption(result))


class _Front:
    """A place on the reader's screen."""

    def tick(self, now: float) -> None: ...

    def make_room(self) -> None:
        """The cell is about to show something."""

    def show_again(self) -> None:
        """The cell has cleared its output, and this with it."""

    def close(self, figure: _Figure, card: dict[str, str] | None) -> None: ...


class _TerminalFront(_Front):
    """One line that is written over itself, where somebody can see it."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._width = 0

    def tick(self, now: float) -> None:
        if sys.stderr.isatty():
            text = self._view.text_line()
            sys.stderr.write("\r" + text.ljust(self._width) + "\r")
            sys.stderr.flush()
            self._width = len(text)

    def make_room(self) -> None:
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()
            self._width = 0

    def close(self, figure: _Figure, card: dict[str, str] | None) -> None:
        self.make_room()


class _KernelFront(_Front):
    """One display, whose content changes: the panel, else an image; text where neither can be shown; at last the figure."""

    def __init__(self, view: View, link: PanelLink, place: Place, ear: Ear, pump: MessagePump | None = None) -> None:
        self._view, self._link, self._place, self._ear, self._pump = view, link, place, ear, pump
        self._image: BlittedImage | None = None
        self._display_id = f"nbcontainer-{secrets.token_hex(8)}"
        self._text_at = time.monotonic()
        self.show_again()

    def _bundle(self) -> dict[str, Any]:
        widget = self._image.widget if self._image is not None else self._link.widget
        view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
        return {WIDGET_VIEW: view, "text/plain": self._view.text_line()}

    def _update(self) -> None:
        self._place(self._bundle(), display_id=self._display_id, update=True)

    def tick(self, now: float) -> None:
        self._link.tick()
        if self._link.answered:
            if self._image is not None:  # it was only slow
                image, self._image = self._image, None
                self._update()
                image.close()
            return
        listened = self._ear.seconds()
        if listened < TEXT_SECONDS:
            return  # a panel that may well be there is not drawn anew
        if self._image is None and listened >= SILENT_SECONDS:
            from nbcontainer.notebook.blit import BlittedImage

            with _DRAWING:
                self._image = BlittedImage(self._view)
        if now >= self._text_at:
            self._text_at = now + TEXT_SECONDS
            if self._image is not None:
                with _DRAWING:
                    self._image.draw()
            self._update()

    def show_again(self) -> None:
        self._place(self._bundle(), display_id=self._display_id)
        self._place({"text/plain": ""}, display_id=f"{self._display_id}-caption")

    def close(self, figure: _Figure, card: dict[str, str] | None) -> None:
        if self._pump is not None:
            self._pump.close()
        self._link.tick()
        self._place(figure.bundle or {"text/plain": ""}, figure.metadata, display_id=self._display_id, update=True)
        self._place(figure.caption, display_id=f"{self._display_id}-caption", update=True)
        below = [figure.caption, card] if card is not None else [figure.caption]
        stays = [{"data": figure.bundle, "metadata": figure.metadata}, *({"data": data, "metadata": {}} for data in below)]
        self._link.end(stays if figure.bundle else [])
        if self._image is not None:
            self._image.end(figure.bundle.get("image/png", ""))


def _title(run: Run) -> str:
    return f"container {run.spec.name or run.container_id}"


def _open_front(shell: Any, view: View, run: Run, place: Place) -> _Front:
    if not is_kernel(shell):
        return _TerminalFront(view)
    from nbcontainer.notebook.panel import PanelLink
    from nbcontainer.notebook.pump import PumpUnavailable, open_pump

    pump: MessagePump | None = None
    ear: Ear = LoopEar(shell.kernel)  # hears nothing while a cell blocks the kernel
    heard = True
    # A run in another thread does not block the kernel, which then hears the clicks by itself.
    if threading.current_thread() is threading.main_thread():
        try:
            pump = open_pump(shell.kernel)
            ear = PumpEar()
        except PumpUnavailable:
            heard = False  # the panel says so, and the stop button works
    front = _KernelFront(view, PanelLink(view, run, _title(run), controls=heard), place, ear, pump)
    if pump is not None:
        run.attend(pump, pump.fileno())
    return front
