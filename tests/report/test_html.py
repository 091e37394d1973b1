"""The page: whole in itself, nothing from outside runs in it, every part there or honestly absent."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from edgeprune.core.results import BlockCost, BlockLatency, Interval, Latency, Timing
from edgeprune.report.html import render_html
from edgeprune.report.html.maps import _cells, _colours, tally
from edgeprune.report.html.markup import el, raw, text
from edgeprune.report.html.parts import prose
from edgeprune.report.verdict import verdict_of
from edgeprune.report.words import entering

VOID = {"meta", "br", "img"}
BLOCK = BlockLatency(block=0, dense_ms=1.0, pruned_ms=1.0)
EVIL = "<script>alert('x')</script>\"&"


class Reader(HTMLParser):
    """Reads a page strictly: every element is closed, in order; remembers what is there."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def said(page: str) -> str:
    return " ".join(" ".join(read(page).words).split())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "samples").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "samples" / "a.jpg")
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "samples" / "worst.jpg")
    return tmp_path


def test_a_page_is_well_formed_and_says_the_verdict_first(report, folder):
    page = render_html(report, folder)
    reader = read(page)
    assert page.startswith("<!DOCTYPE html>")
    assert [section["id"] for section in reader.all("section")] == [
        "verdict", "speed", "blocks", "accuracy", "tokens", "strategies", "engines", "notes", "origin",
    ]  # fmt: skip
    assert verdict_of(report).summary in said(page)
    for finding in verdict_of(report).findings:
        assert finding.figure in said(page)
        assert finding.words in said(page)


def test_a_page_loads_nothing_and_runs_nothing(report, folder):
    page = render_html(report, folder)
    reader = read(page)
    assert not {"script", "link", "iframe", "object", "base", "form"} & {tag for tag, _ in reader.tags}
    policy = next(meta["content"] for meta in reader.all("meta") if meta.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    for tag, attributes in reader.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href"):
            assert re.match(r"#|data:image/(jpeg|png);base64,", attributes.get(name) or "#"), (tag, attributes[name])
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def evil(report):
    """A report in which every word from outside is markup."""
    drift = replace(report.validation.drift["logits"], worst_sample=EVIL)
    return replace(
        report,
        command=("compile", f"{EVIL}.onnx", EVIL),
        warnings=(EVIL,),
        refusals=(replace(report.refusals[0], reason=EVIL, at=(EVIL,)),),
        strategy=replace(report.strategy, name=EVIL, options={EVIL: EVIL}),
        plan=replace(report.plan, targets=(EVIL,), inputs={EVIL: (1,)}),
        validation=replace(report.validation, reference=EVIL, drift={EVIL: drift}),
        engines=(replace(report.engines[0], target=EVIL, runtime=EVIL, path=EVIL, sha256=EVIL),),
        latency=tuple(
            replace(row, target=EVIL, device=EVIL, method=EVIL, runtime=EVIL, blocks=(BLOCK,)) for row in report.latency
        ),
        token_maps=(replace(report.token_maps[0], sample=EVIL),),
        worst_samples=(replace(report.worst_samples[0], sample=EVIL, output=EVIL),),
        environment=replace(report.environment, system=EVIL, packages={EVIL: EVIL}),
    )  # fmt: skip


def test_no_word_from_outside_is_markup(report, folder):
    page = render_html(evil(report), folder)
    clean = read(render_html(report, folder))
    reader = read(page)
    assert "<script" not in page
    assert "alert('x')" not in page  # quotes are escaped too
    assert EVIL in "".join(reader.words)
    assert {tag for tag, _ in reader.tags} <= {tag for tag, _ in clean.tags}


def test_pictures_stand_in_the_page_once_each(report, folder):
    reader = read(render_html(report, folder))
    images = reader.all("image")
    assert len(images) == 2
    first = base64.b64decode(images[0]["href"].partition("base64,")[2])
    assert first == (folder / "samples" / "a.jpg").read_bytes()
    names = {f"#{image['id']}" for image in images}
    uses = [use["href"] for use in reader.all("use")]
    assert set(uses) == names
    assert len(uses) == 3  # the sample, its one cut, the worst sample


@pytest.mark.parametrize("path", ["../secret.jpg", "samples/gone.jpg", "samples/page.jpg", "/etc/hostname"])
def test_only_pictures_of_the_folder_are_read(report, folder, path):
    Image.new("RGB", (8, 8)).save(folder.parent / "secret.jpg")
    (folder / "samples" / "page.jpg").write_text("<svg onload=alert(1)>")
    changed = replace(report, token_maps=(replace(report.token_maps[0], image=path),), worst_samples=())
    reader = read(render_html(changed, folder))
    assert reader.all("image") == []
    assert "samples/page.jpg" not in " ".join(reader.words)


def test_every_table_has_a_caption_and_scopes_and_every_picture_a_label(report, folder):
    reader = read(render_html(report, folder))
    assert len(reader.all("caption")) == len(reader.all("table")) > 4
    assert {cell["scope"] for cell in reader.all("th")} == {"col", "row"}
    for svg in reader.all("svg"):
        assert svg.get("aria-hidden") == "true" or (svg["role"] == "img" and svg["aria-label"])


def test_every_latency_is_measured_or_modelled(report, folder):
    timing = Timing(p50_ms=1.0, p90_ms=1.25, p99_ms=1.5, samples=100)
    row = Latency(
        target="t4", kind="measured", dense_p50_ms=2.0, pruned_p50_ms=1.0, speedup=2.0, precision="fp16",
        dense_timing=timing, pruned_timing=timing, runtime="TensorRT 10.3.0", device="Tesla T4",
    )  # fmt: skip
    said_before = Latency(
        target="t4", kind="modelled", dense_p50_ms=1.0, pruned_p50_ms=0.5, speedup=2.0, precision="fp16",
        dense_interval_ms=Interval(low=0.8, high=1.3), speedup_interval=Interval(low=1.7, high=2.2),
    )  # fmt: skip
    page = render_html(replace(report, latency=(row, said_before)), folder)
    assert page.count('<em class="measured">measured</em>') == page.count('<em class="modelled">modelled</em>') == 1
    words = said(page)
    assert "p90 1.250, p99 1.500" in words
    assert "0.800 to 1.300" in words
    assert "1.70x to 2.20x" in words
    assert "Tesla T4" in words
    assert "t4: modelled before it was measured: dense 1.000 ms (-50 %), pruned 0.500 ms (-50 %), 2.00x" in words


def test_nothing_known_is_said_and_not_drawn(report, folder):
    bare = replace(
        report, latency=(), engines=(), lowerings=(), blocks=(), token_maps=(), worst_samples=(), refusals=(),
        warnings=(), command=(),
        validation=replace(report.validation, identity=None, exactness=None, drift={}),
        plan=replace(report.plan, cuts=()), strategy=replace(report.strategy, candidates=()),
    )  # fmt: skip
    page = render_html(bare, folder)
    words = said(page)
    assert "what the cuts cost in accuracy is not known" in words
    assert "Nothing was measured" in words
    assert "Nothing was refused" in words
    assert "no cut" in words
    assert "edgeprune compile MODEL --plan plan.json -o OUT" in words
    assert [section["id"] for section in read(page).all("section")] == [
        "verdict", "speed", "blocks", "accuracy", "strategies", "notes", "origin",
    ]  # fmt: skip
    assert not re.search(r"\b(nan|inf|None)\b", words)


@pytest.mark.parametrize("blocks", [1, 12, 48])
@pytest.mark.parametrize("targets", [1, 8])
def test_charts_hold_many_blocks_and_targets(report, folder, blocks, targets):
    costs = tuple(
        BlockCost(block=i, dense_tokens=197, pruned_tokens=197 - 2 * i, dense_macs=10**8, pruned_macs=10**8 // (i + 2))
        for i in range(-1, blocks)
    )
    times = tuple(BlockLatency(block=cost.block, dense_ms=0.1, pruned_ms=0.2) for cost in costs)
    rows = tuple(replace(report.latency[0], target=f"target-{i}", blocks=times) for i in range(targets))
    reader = read(render_html(replace(report, blocks=costs, latency=rows), folder))
    charts = [svg for svg in reader.all("svg") if svg.get("class") == "chart"]
    assert len(charts) == 4 + targets  # speed, tokens, MACs, drift, and time by target
    assert len(reader.all("rect")) >= 2 * (blocks + 1) * (targets + 1)
    for rect in reader.all("rect"):
        assert float(rect["height"]) >= 0
        assert 0 <= float(rect.get("x", 0)) <= 440


def test_a_cut_is_seen_by_the_next_block(report, folder):
    assert entering(report.plan) == ([197, 197, 197], [197, 197, 121])  # cut in block 1 of 3
    assert "Tokens that enter each block: 197 x3 dense; 197 x2, 121 pruned." in said(render_html(report, folder))
    assert entering(replace(report.plan, blocks=0, cuts=())) == ([], [])


def test_the_command_can_be_copied(report, folder):
    quoted = replace(report, command=("compile", "my model.onnx", "--keep", "0.6"))
    assert "edgeprune compile 'my model.onnx' --keep 0.6" in said(render_html(quoted, folder))


def test_a_map_counts_what_became_of_the_patches(report, folder):
    assert tally(report.token_maps[0].cuts[0].owners) == (3, 2, 1)
    labels = [svg["aria-label"] for svg in read(render_html(report, folder)).all("svg") if svg.get("class") == "map"]
    assert "a.jpg after block 1: 3 kept, 2 merged, 1 dropped" in labels


def test_cells_become_one_path_a_run():
    assert _cells([True, True, False, True, False, True], columns=3) == "M0 0h2v1h-2zM0 1h1v1h-1zM2 1h1v1h-1z"
    assert _cells([True] * 4, columns=2) == "M0 0h2v1h-2zM0 1h2v1h-2z"
    assert _cells([False] * 4, columns=2) == ""


def test_neighbouring_groups_have_other_colours():
    joined = [0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10]
    colours = _colours(joined, columns=4)
    for i in range(len(joined) - 4):
        assert colours[joined[i]] != colours[joined[i + 4]]
    assert colours[0] != colours[2]


def test_the_same_report_gives_the_same_page(report, folder):
    assert render_html(report, folder) == render_html(report, folder)


def test_text_is_escaped_and_markup_is_not():
    assert el("p", "<b>", raw("<i>x</i>"), title='a"b') == '<p title="a&quot;b">&lt;b&gt;<i>x</i></p>'
    assert text("a&b") == "a&amp;b"
    assert el("line", x1=1.25, hidden=False, tabindex=None) == '<line x1="1.2"/>'


def test_sentences_name_names_and_keep_units_and_options_whole():
    made = prose("`a<b` took 0.5 ms (80 %): try --cuts 2, a larger --batch, or x--y")
    assert made == (
        "<code>a&lt;b</code> took 0.5\u00a0ms (80\u00a0%): try "
        '<span class="option">--cuts 2</span>, a larger <span class="option">--batch</span>, or x--y'
    )


def test_a_page_of_a_real_compile(compiled_demo):
    from edgeprune.report import Report, from_json

    made = from_json((compiled_demo / "report.json").read_bytes(), Report)
    words = said(render_html(made, compiled_demo))
    assert "digits_vit.onnx" in words or made.model.sha256[:12] in words
    assert f"of {made.validation.samples} samples" in words
