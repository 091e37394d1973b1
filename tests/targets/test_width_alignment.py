"""What widths are aligned to: the profile's own word, else the size of the device; every number has its source."""

from __future__ import annotations

from dataclasses import replace

from edgeprune_targets.profiles import load_target, load_targets, profile_text, read_profile
from edgeprune_targets.width_alignment import width_alignment


def test_large_devices_have_large_tiles():
    assert width_alignment().mlp_step == 64
    assert width_alignment(load_targets("jetson-orin-nano-8gb")).mlp_step == 64
    assert width_alignment(load_targets("rtx-4090")).mlp_step == 128
    assert width_alignment(load_targets("jetson-orin-nano-8gb,rtx-4090")).mlp_step == 128


def test_a_profile_may_say_so_itself(tmp_path):
    words = profile_text("jetson-orin-nano-8gb").replace('device = "', 'mlp_step = 96\nhead_size_step = 32\ndevice = "')
    (tmp_path / "own.toml").write_text(words)
    own = read_profile(tmp_path / "own.toml")
    found = width_alignment((own,))
    assert (found.mlp_step, found.head_size_step, found.smallest_head_size) == (96, 32, 32)
    both = width_alignment((own, load_target("jetson-orin-nano-8gb")))
    assert (both.mlp_step, both.head_size_step) == (192, 32)


def test_every_number_has_a_source():
    found = width_alignment(load_targets("rtx-4090"))
    assert found.sources.keys() == {
        "mlp_step", "small_step", "head_size_step", "smallest_head_size", "fewest_heads"
    }  # fmt: skip
    assert found.sources["fewest_heads"].status == "verified"
    told = replace(load_target("rtx-4090"), sources={"mlp_step": found.sources["fewest_heads"]})
    assert width_alignment((told,)).sources["mlp_step"] is found.sources["fewest_heads"]
