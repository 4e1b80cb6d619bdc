"""Sentences read from lips, from sound, or from both: the networks and the task behind `fusion.py`.

    mouth pictures, 25 a second ─ convolutions ─ a token each 80 ms ┐        ┌ each sense's evidence for words,
                                                                    ├ fusion ┤ and embedding of the sentence:
    sound under noise, log-mel ─── convolutions ─ a token each 80 ms ┘        └ the senses' are added

All models have the same front ends and see the same examples, varied alike, in the same order.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.fusion import FUSIONS, FusionSize, Holding, OneSense, hold_still, start_from
from pipeline.sync import lips
from pipeline.training import grid
from pipeline.training.losses import Contrastive, info_nce

SINGLES = {"video": (True, False), "audio": (False, True)}
SEEN_PX = (32, 48)  # height, width of what the network is shown of a mouth
TEXT_DIM = 384  # of MiniLM
_N_WORDS = [len(words) for words in grid.WORDS.values()]
_PICTURES_A_TOKEN, _COLUMNS_A_TOKEN = 2, 8
_N_AT_ONCE = 32  # examples
_HIDDEN = {
    "pictures": (15, grid.N_PICTURES),
    "columns": (60, 300),
    "bands": (8, lips.N_BANDS),
}  # at most, of
_NO_COLUMNS = np.zeros((grid.CLIP_S * lips.COLUMNS_HZ, lips.N_BANDS), np.float32)


class Learning(BaseModel):
    """What is learned from, and how much each part of the loss counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: FusionSize = FusionSize()
    snr_db: tuple[float, float] = Field((-5.0, 20.0), description="of training; drawn evenly")
    clean_share: float = Field(0.2, ge=0, le=1, description="of examples without noise")
    watch_snr_db: float = Field(0.0, description="at which the watched fold is read")
    sense_dropout: float = Field(
        0.4, ge=0, lt=1, description="share of examples with one sense removed, where both senses learn"
    )
    n_draws: int = Field(
        16, ge=1, description="variations of each example for what learns over held front ends"
    )
    align_weight: float = Field(0.1, ge=0, description="of the alignment with the sentence's embedding")
    alone_weight: float = Field(0.5, ge=0, description="of each sense's words before it is fused")
    label_smoothing: float = Field(0.1, ge=0, lt=1)


@dataclass(frozen=True)
class Batch:
    """What a network is given."""

    pictures: Tensor  # (B, T, H, W) uint8
    times_s: Tensor  # (B, T)
    shown: Tensor  # (B, T) bool
    columns: Tensor  # (B, n, lips.N_BANDS)
    heard: Tensor  # (B, n) bool
    present: Tensor  # (B, 2) bool, video, audio


@dataclass(frozen=True)
class Tokens:
    """What front ends make of a batch."""

    video: Tensor  # (B, Nv, dim)
    audio: Tensor  # (B, Na, dim)
    video_s: Tensor  # (B, Nv) when
    audio_s: Tensor  # (B, Na)
    video_valid: Tensor  # (B, Nv) bool
    audio_valid: Tensor  # (B, Na) bool
    present: Tensor  # (B, 2) bool


Given = TypeVar("Given", bound=Batch | Tokens)


def only(given: Given, senses: Sequence[bool]) -> Given:
    """The same with no other than `senses`."""
    return dataclasses.replace(given, present=given.present & torch.tensor(senses))


def taken(given: Given, indices: Tensor | slice) -> Given:
    """Some examples of it."""
    names = [f.name for f in dataclasses.fields(given)]
    return dataclasses.replace(given, **{name: getattr(given, name)[indices] for name in names})


def joined(parts: Sequence[Tokens]) -> Tokens:
    """The examples of all `parts`, one after the other."""
    names = [f.name for f in dataclasses.fields(Tokens)]
    return Tokens(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


class _Seeing(nn.Module):
    """Mouth pictures → a token for every second one, of the five pictures around it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out, size in ((5, 16, 5), (16, 32, 3), (32, 48, 3)):
            layers += [
                nn.Conv2d(n_in, n_out, size, 2, size // 2, bias=False),
                nn.BatchNorm2d(n_out),
                nn.ReLU(),
            ]
        n_places = (SEEN_PX[0] // 8) * (SEEN_PX[1] // 8)
        self.convs = nn.Sequential(
            *layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(48 * n_places, dim)
        )
        self.over_time = nn.Sequential(
            nn.BatchNorm1d(dim), nn.ReLU(), nn.Conv1d(dim, dim, 5, padding=2, bias=False)
        )
        self.out = nn.Sequential(nn.BatchNorm1d(dim), nn.ReLU(), nn.Conv1d(dim, dim, 1))

    def forward(self, pictures: Tensor, shown: Tensor) -> Tensor:
        """(B, T, H, W) uint8, (B, T) → (B, ⌈T / 2⌉, dim)."""
        x = pictures.float() / 255
        shares = shown / shown.sum(1, keepdim=True).clamp(min=1)
        mean = (x.mean((2, 3)) * shares).sum(1)[:, None, None, None]
        deviation = (((x - mean) ** 2).mean((2, 3)) * shares).sum(1).sqrt()[:, None, None, None]
        x = (x - mean) * (shown[..., None, None] / (deviation + 0.01))
        n = x.shape[1]
        padded = F.pad(x[:, None], (0, 0, 0, 0, 2, 2))[:, 0]
        # Five pictures side by side are the channels, which the convolutions want innermost.
        stacks = torch.stack([padded[:, k : k + n : _PICTURES_A_TOKEN] for k in range(5)], -1)
        y = self.convs(stacks.flatten(0, 1).permute(0, 3, 1, 2))
        y = y.view(*stacks.shape[:2], -1).transpose(1, 2)  # (B, dim, ⌈T / 2⌉)
        return self.out(self.over_time(y)).transpose(1, 2)


class _Hearing(nn.Module):
    """Log-mel columns → a token for each eight of them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out, stride in ((lips.N_BANDS, 64, 2), (64, 64, 2), (64, 64, 2), (64, 64, 1)):
            layers += [
                nn.Conv1d(n_in, n_out, 5, stride, 2, bias=False),
                nn.BatchNorm1d(n_out),
                nn.ReLU(),
            ]
        self.convs = nn.Sequential(*layers)
        self.out = nn.Sequential(nn.Dropout(0.3), nn.Linear(64, dim))

    def forward(self, columns: Tensor) -> Tensor:
        """(B, n, N_BANDS) → (B, ⌈n / 8⌉, dim)."""
        return self.out(self.convs(columns.transpose(1, 2)).transpose(1, 2))


class Said(NamedTuple):
    """What a reader says of a batch."""

    words: tuple[Tensor, ...]  # (B, classes) logits of each word
    embedding: Tensor  # (B, TEXT_DIM) of any length
    scale: Tensor  # of its likeness to text
    alone: tuple[tuple[Tensor, ...] | None, ...]  # `words` by each sense's tokens before they are fused


class _Telling(nn.Module):
    """What the tokens of one sense say.

    Every token says how much it speaks for each word of the vocabulary; a word's evidence is the log-sum of
    that over time, so that no word needs a known place.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.words, self.meaning = nn.Linear(dim, sum(_N_WORDS)), nn.Linear(dim, TEXT_DIM)

    def forward(self, tokens: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, dim), those that count (B, N) → (B, words), (B, TEXT_DIM); zero where none counts."""
        pooled = (tokens * counts[..., None]).sum(1) / counts.sum(1, keepdim=True).clamp(min=1)
        some = counts.any(1)[:, None]
        return some * _evidence(self.words(tokens), counts), some * self.meaning(pooled)


class SentenceReader(Holding):
    """Lips and sound → six words, and a vector in the space of sentence embeddings.

    What the senses say is added: as evidence that is independent given the words, until a fusion knows better.
    With one sense it is what that one says.
    """

    def __init__(self, kind: str, size: FusionSize) -> None:
        super().__init__()
        self.senses = SINGLES.get(kind, (True, True))
        self.fusion = OneSense(size, kind) if kind in SINGLES else FUSIONS[kind](size)
        fronts = (_Seeing, _Hearing)
        self.fronts, self.alone, self.telling = (
            nn.ModuleList(make(k) if has else nn.Identity() for k, has in enumerate(self.senses))
            for make in (
                lambda k: fronts[k](size.dim),
                lambda _: nn.Linear(size.dim, sum(_N_WORDS)),
                lambda _: _Telling(size.dim),
            )
        )
        self.contrastive = Contrastive()

    def start_from(self, video: SentenceReader, audio: SentenceReader) -> None:
        """Take over the readers of one sense each and hold them; the fusion learns what crosses."""
        start_from(self.fusion, video.fusion, audio.fusion)  # type: ignore[arg-type]
        for k, single in enumerate((video, audio)):
            for mine, theirs in (
                (self.fronts, single.fronts),
                (self.alone, single.alone),
                (self.telling, single.telling),
            ):
                mine[k].load_state_dict(theirs[k].state_dict())
                hold_still(mine[k])

    def forward(self, given: Batch | Tokens) -> Said:
        """What is said in each example."""
        given = self.tokens(given) if isinstance(given, Batch) else given
        tokens, valid = (given.video, given.audio), (given.video_valid, given.audio_valid)
        present = given.present & torch.tensor(self.senses, device=given.present.device)
        times_s = (given.video_s, given.audio_s)
        fused = self.fusion(*tokens, present, times_s=times_s, valid=valid)
        said = [
            tell(x, there & present[:, k, None])
            for k, (tell, x, there) in enumerate(
                zip(self.telling, fused.split([x.shape[1] for x in tokens], 1), valid, strict=True)
            )
            if self.senses[k]
        ]
        return Said(
            sum(words for words, _ in said).split(_N_WORDS, 1),
            sum(meaning for _, meaning in said),
            self.contrastive.scale,
            tuple(
                _evidence(head(x), there).split(_N_WORDS, 1) if has else None
                for has, head, x, there in zip(self.senses, self.alone, tokens, valid, strict=True)
            ),
        )

    def tokens(self, batch: Batch) -> Tokens:
        """What the front ends make of it; a sense that the reader lacks is one token of zeros."""
        b, device = len(batch.present), batch.columns.device
        given = ((batch.pictures, batch.shown), (batch.columns,))
        none = batch.columns.new_zeros(b, 1, self.fusion.size.dim)
        video, audio = (
            front(*x).float() if has else none
            for front, x, has in zip(self.fronts, given, self.senses, strict=True)
        )
        looked = torch.arange(video.shape[1], device=device) * _PICTURES_A_TOKEN
        heard = torch.arange(audio.shape[1], device=device) * _COLUMNS_A_TOKEN
        return Tokens(
            video,
            audio,
            batch.times_s[:, looked],
            (heard / lips.COLUMNS_HZ).expand(b, -1),
            batch.shown[:, looked],
            batch.heard[:, heard],
            batch.present,
        )


def _evidence(words: Tensor, counts: Tensor) -> Tensor:
    """(B, words) from what every token (B, N, words) says, of those that count (B, N)."""
    return words.float().masked_fill(~counts[..., None], -1e4).logsumexp(1)


class Singles:
    """Trained readers of video and of audio, from which fusions start, and what their front ends make of
    examples: they are held, so each example is drawn `n_draws` times and then read as often as is liked."""

    def __init__(self, video: SentenceReader, audio: SentenceReader) -> None:
        self.readers = (video, audio)
        self._kept: tuple[tuple[Any, ...], Tokens] | None = None

    def of(self, sense: str) -> SentenceReader:
        """The reader of video, or of audio."""
        return self.readers[tuple(SINGLES).index(sense)]

    @torch.no_grad()
    def tokens(self, batch: Batch) -> Tokens:
        """What the two front ends make of it."""
        video, audio = (reader.tokens(batch) for reader in self.readers)
        heard = {f.name: getattr(audio, f.name) for f in dataclasses.fields(Tokens)}
        return dataclasses.replace(
            video, **{name: x for name, x in heard.items() if name.startswith("audio")}
        )

    @torch.no_grad()
    def drawn(self, heads: grid.Heads, learning: Learning) -> Tokens:
        """Each example of `heads` in `n_draws` variations; those of the first draw first."""
        key = (id(heads), learning)
        if self._kept is None or self._kept[0] != key:
            parts = []
            for draw in range(learning.n_draws):
                for indices in torch.arange(len(heads)).split(_N_AT_ONCE):
                    random = np.random.default_rng([draw, int(indices[0])])
                    parts.append(self.tokens(varied(heads, indices.numpy(), learning, random)))
            self._kept = (key, joined(parts))
        return self._kept[1]


class ReadSentences:
    """The task: a kind of fusion, or a single sense, learns to read sentences.

    From `singles` a fusion starts, holds them and learns only what crosses; a single sense goes on learning
    from where its own stands. None: both start from nothing.
    """

    def __init__(
        self,
        kind: str,
        learning: Learning,
        train: grid.Heads,
        watch: grid.Heads,
        texts: Tensor,
        singles: Singles | None = None,
    ) -> None:
        self.kind, self.learning, self.train, self.watch = kind, learning, train, watch
        self.singles = singles
        self.is_held = singles is not None and kind in FUSIONS
        if kind in SINGLES or self.is_held:  # nothing would be learned from a sense removed
            self.learning = learning.model_copy(update={"sense_dropout": 0.0})
        self.watched: Batch | Tokens = plain(watch, learning.watch_snr_db, 0, "babble")
        if self.is_held and singles is not None:
            self.watched = singles.tokens(self.watched)
        self.texts, self.n_examples = texts, len(train)  # (n, 384)

    def make_net(self) -> nn.Module:
        net = SentenceReader(self.kind, self.learning.size)
        if self.singles is None:
            return net
        if self.kind in SINGLES:
            net.load_state_dict(self.singles.of(self.kind).state_dict())
        else:
            net.start_from(*self.singles.readers)
        return net

    def loss(self, net: nn.Module, indices: Tensor, random: np.random.Generator) -> Tensor:
        given: Batch | Tokens
        if self.is_held and self.singles is not None:
            draws = torch.from_numpy(random.integers(self.learning.n_draws, size=len(indices)))
            drawn = self.singles.drawn(self.train, self.learning)
            given = taken(drawn, draws * self.n_examples + indices)
        else:
            is_heard = self.kind != "video"
            given = varied(self.train, indices.numpy(), self.learning, random, is_heard=is_heard)
        said = net(given)
        targets, learning = torch.from_numpy(self.train.words)[indices], self.learning
        loss = _wrong(said.words, targets, learning.label_smoothing).mean()
        for k, words in enumerate(said.alone):
            if words is not None and not self.is_held:
                wrong = _wrong(words, targets, learning.label_smoothing)
                loss = loss + learning.alone_weight * (wrong * given.present[:, k]).mean()
        align = info_nce(said.embedding, self.texts[indices], said.scale)
        return loss + learning.align_weight * align

    def validate(self, net: nn.Module) -> dict[str, float]:
        """Share of words right on the watched fold under babble, with each set of senses."""
        found = {
            name: float(answer(net, only(self.watched, senses), self.watch.words).right.mean())
            for name, senses in conditions(self.kind).items()
        }
        return found | {"score": float(np.mean(list(found.values())))}


def _wrong(words: tuple[Tensor, ...], targets: Tensor, smoothing: float) -> Tensor:
    """Cross entropy (B,), the mean over words."""
    each = [
        F.cross_entropy(logits, targets[:, k], label_smoothing=smoothing, reduction="none")
        for k, logits in enumerate(words)
    ]
    return torch.stack(each).mean(0)


def conditions(kind: str) -> dict[str, tuple[bool, bool]]:
    """The sets of senses that a model can be asked with."""
    return {kind: SINGLES[kind]} if kind in SINGLES else {"both": (True, True)} | SINGLES


def varied(
    heads: grid.Heads,
    indices: npt.NDArray[np.int64],
    learning: Learning,
    random: np.random.Generator,
    *,
    is_heard: bool = True,
) -> Batch:
    """Examples to train on: noise, sense, place, mirroring, missing stretches drawn anew. Where nobody hears
    them they are alike but for columns of zeros."""
    pictures, columns, shown, heard, present = [], [], [], [], []
    for i in indices:
        kind = "babble" if random.random() < 0.5 else "sound"
        snr_db = np.inf if random.random() < learning.clean_share else random.uniform(*learning.snr_db)
        noise = heads.noise_for(i, kind, random)
        there, bands = _hidden("columns", random), _hidden("bands", random)
        sound = grid.mixed(heads.sounds[i], noise, snr_db) if is_heard else None
        found = _NO_COLUMNS if sound is None else _columns(sound)
        columns.append(np.where(there[:, None] & bands, found, np.float32(0)))
        heard.append(there)
        shown.append(heads.shown[i] & _hidden("pictures", random))
        top, left = (
            random.integers(kept - px + 1) for kept, px in zip(grid.MOUTH_PX, SEEN_PX, strict=True)
        )
        cut = heads.pictures[i][:, top : top + SEEN_PX[0], left : left + SEEN_PX[1]]
        pictures.append(cut[..., ::-1] if random.random() < 0.5 else cut)
        is_cut = random.random() < learning.sense_dropout
        present.append((False, True) if is_cut and random.random() < 0.5 else (True, not is_cut))
    return _batch(heads, indices, pictures, shown, columns, heard, present)


def plain(heads: grid.Heads, snr_db: float, draw: int, kind: str) -> Batch:
    """All examples as they are measured; the noise comes from the file's name and `draw`."""
    top, left = ((kept - px) // 2 for kept, px in zip(grid.MOUTH_PX, SEEN_PX, strict=True))
    columns = []
    for i, name in enumerate(heads.names):
        random = np.random.default_rng([zlib.crc32(name.encode()), draw])
        columns.append(_columns(grid.mixed(heads.sounds[i], heads.noise_for(i, kind, random), snr_db)))
    pictures = list(heads.pictures[:, :, top : top + SEEN_PX[0], left : left + SEEN_PX[1]])
    heard = np.ones((len(heads), len(columns[0])), bool)
    everything = np.arange(len(heads))
    return _batch(
        heads, everything, pictures, heads.shown, columns, heard, np.ones((len(heads), 2), bool)
    )


def _batch(
    heads: grid.Heads, indices: Any, pictures: Any, shown: Any, columns: Any, heard: Any, present: Any
) -> Batch:
    stacked = (np.stack(pictures), heads.times_s[indices], np.stack(shown))
    heard_too = (np.stack(columns).astype(np.float32), np.stack(heard), np.array(present))
    return Batch(*(torch.from_numpy(np.ascontiguousarray(x)) for x in (*stacked, *heard_too)))


def _columns(sound: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return lips.normalised(lips.log_mel(sound))[: grid.CLIP_S * lips.COLUMNS_HZ]


def _hidden(what: str, random: np.random.Generator) -> npt.NDArray[np.bool_]:
    """False over one stretch of `what`, as where a file is damaged."""
    most, n = _HIDDEN[what]
    length = random.integers(most + 1)
    first = random.integers(n - length + 1)
    at = np.arange(n)
    return (at < first) | (at >= first + length)


@dataclass(frozen=True)
class Answers:
    """What a model said of all examples."""

    right: npt.NDArray[np.bool_]  # (n, 6) words
    embedding: Tensor  # (n, 384)


@torch.no_grad()
def answer(net: nn.Module, given: Batch | Tokens, words: npt.NDArray[np.int64]) -> Answers:
    """Ask a model."""
    right, embeddings = [], []
    for at in range(0, len(words), _N_AT_ONCE):
        here = slice(at, at + _N_AT_ONCE)
        said = net(taken(given, here))
        right.append(np.stack([x.argmax(-1).cpu().numpy() for x in said.words], 1) == words[here])
        embeddings.append(said.embedding)
    return Answers(np.concatenate(right), torch.cat(embeddings))
