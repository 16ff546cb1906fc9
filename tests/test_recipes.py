"""Recipes: plans by themselves, made good for checkpoints without running anything."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import halfsafe
from halfsafe import BadInput, FoldError, apply_recipe
from halfsafe.recipe import Recipe, Recipes, Setting

SHAPES = {
    "embed.weight": (9, 4),
    **{f"h.{i}.{name}.weight": (4, 4) for i in range(3) for name in ("q", "up", "down")},
    "head.weight": (9, 4),
}
RECIPE = Recipe(
    "Small",
    {name: shape for name, shape in SHAPES.items() if name != "head.weight"},
    {"embed.weight": 3, **{f"h.{i}.down.weight": 3 for i in range(3)}, "h.1.up.weight": -2},
    {"eps": Setting(1e-6, 6)},
    {"head.weight": "embed.weight"},
)
RECIPES = Recipes({"": RECIPE})


def tensors(seed=0, dtype=torch.float32, tied=False):
    draw = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(shape, generator=draw) for name, shape in SHAPES.items()}
    made["head.weight"] = made["embed.weight"].clone()
    if tied:
        del made["head.weight"]
    return {name: x.to(dtype) for name, x in made.items()}


def exponent(name):
    return RECIPE.exponents.get(RECIPE.tied.get(name, name), 0)


def stored(place, held, name="model.safetensors"):
    save_file(held, place / name, {"format": "pt", "of": "mine"})
    return place / name


# The file


def test_a_recipe_is_written_and_read(tmp_path):
    RECIPES.save(tmp_path / "r.json")
    assert Recipes.load(tmp_path / "r.json") == RECIPES
    lines = (tmp_path / "r.json").read_text().splitlines()
    assert any('["h.{0-2}.down.weight", [4, 4], 3]' in line for line in lines)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.update(schema=99), "schema 99"),
        (lambda data: data.update(halfsafe="report"), "it says 'report'"),
        (lambda data: data["networks"][""]["tensors"].pop(), "changed by hand"),
        (lambda data: data["networks"][""].pop("settings"), "is no recipe"),
    ],
)
def test_a_file_that_is_no_recipe(change, said, tmp_path):
    RECIPES.save(tmp_path / "r.json")
    data = json.loads((tmp_path / "r.json").read_text())
    change(data)
    (tmp_path / "r.json").write_text(json.dumps(data))
    with pytest.raises(BadInput, match=said):
        Recipes.load(tmp_path / "r.json")


def test_a_recipe_of_eighty_layers_has_a_few_kilobytes(tmp_path):
    kinds = "q k v o up gate down".split()
    names = [f"model.layers.{i}.{kind}.weight" for i in range(80) for kind in kinds]
    recipe = Recipe("Llama", dict.fromkeys(names, (8, 8)), {n: 4 for n in names if ".o." in n})
    Recipes({"": recipe}).save(tmp_path / "r.json")
    assert (tmp_path / "r.json").stat().st_size < 1000


# Applied


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("tied", [False, True])
def test_each_tensor_is_exact_and_of_its_own_type(dtype, tied, tmp_path):
    held = tensors(1, dtype, tied)
    done = apply_recipe(RECIPES, stored(tmp_path, held), tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    assert found.keys() == held.keys()
    for name, x in held.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name].double(), x.double() * 2.0 ** -exponent(name))
    assert (done.rescaled, done.tensors) == (5 + (not tied), len(held))


def test_everything_but_the_entries_is_the_file_as_it_was(tmp_path):
    source = stored(tmp_path, tensors())
    apply_recipe(RECIPES, source, tmp_path / "out.safetensors")
    before, after = source.read_bytes(), (tmp_path / "out.safetensors").read_bytes()
    length = 8 + int.from_bytes(before[:8], "little")
    assert len(before) == len(after)
    assert before[:length] == after[:length]


def test_shards_are_rescaled_shard_by_shard(tmp_path):
    held = tensors(2)
    (tmp_path / "in").mkdir()
    names = sorted(held)
    parts = {f"model-{i}.safetensors": names[i::3] for i in range(3)}
    for file, part in parts.items():
        save_file({name: held[name] for name in part}, tmp_path / "in" / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (tmp_path / "in" / "model.safetensors.index.json").write_text(json.dumps(index))
    apply_recipe(RECIPES, tmp_path / "in", tmp_path / "sharded")
    apply_recipe(RECIPES, stored(tmp_path, held), tmp_path / "whole.safetensors")
    whole = load_file(tmp_path / "whole.safetensors")
    made = {p.name for p in (tmp_path / "sharded").iterdir()}
    assert made == {*parts, "model.safetensors.index.json"}
    for file in parts:
        for name, x in load_file(tmp_path / "sharded" / file).items():
            assert torch.equal(x, whole[name])


def test_what_a_type_does_not_hold_is_refused_or_written_in_another(tmp_path):
    held = tensors(3, torch.float16)
    held["embed.weight"][0, 0] = held["head.weight"][0, 0] = 7 * 2.0**-24  # a subnormal of FP16
    source = stored(tmp_path, held)
    with pytest.raises(BadInput, match=r"'embed.weight' times 2\^-3 is not exact in F16"):
        apply_recipe(RECIPES, source, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    apply_recipe(RECIPES, source, tmp_path / "wide.safetensors", dtype="float32")
    wide = load_file(tmp_path / "wide.safetensors")
    assert wide["embed.weight"].dtype == torch.float32
    assert float(wide["embed.weight"][0, 0]) == 7 * 2.0**-27
    apply_recipe(RECIPES, source, tmp_path / "half.safetensors", dtype="float16")
    half = load_file(tmp_path / "half.safetensors")
    assert float(half["embed.weight"][0, 0]) == 2.0**-24


def test_rounding_to_half_is_that_of_the_framework(tmp_path):
    held = tensors(4)
    apply_recipe(RECIPES, stored(tmp_path, held), tmp_path / "out.safetensors", dtype="float16")
    for name, x in load_file(tmp_path / "out.safetensors").items():
        assert torch.equal(x, (held[name] * 2.0 ** -exponent(name)).half())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("k", [-9, -1, 1, 7])
@pytest.mark.parametrize("zeros", [False, True])
def test_shifting_the_exponent_is_multiplying(dtype, k, zeros, tmp_path):
    """Entries of all binades that stay normal, of both signs, and zeros of both."""
    info = torch.finfo(dtype)
    low, high = (int(np.log2(x)) + 1 for x in (info.smallest_normal, info.max))
    draw = np.random.default_rng(0)
    exponents = draw.integers(low + max(k, 0), high + min(k, 0) - 1, 5000)
    x = torch.tensor(np.ldexp(draw.uniform(1, 2, 5000) * draw.choice([-1, 1], 5000), exponents))
    x = x.to(dtype)
    if zeros:
        x[::7], x[1::7] = 0.0, -0.0
    recipe = Recipes({"": Recipe("One", {"x": (5000,)}, {"x": k})})
    apply_recipe(recipe, stored(tmp_path, {"x": x}), tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")["x"]
    wanted = x.double() * 2.0**-k
    assert torch.equal(found.double(), wanted)
    assert torch.equal(found.signbit(), x.signbit())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("k", [-3, 2])
def test_every_number_of_sixteen_bits_is_exact_or_refused(dtype, k, tmp_path):
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    recipe = Recipes({"": Recipe("One", {"x": (1,)}, {"x": k})})
    for x in bits[::97]:
        wanted = x.double() * 2.0**-k
        exact = torch.equal(wanted.to(dtype).double(), wanted) or bool(x.isnan())
        source = stored(tmp_path, {"x": x.reshape(1).clone()})
        try:
            apply_recipe(recipe, source, tmp_path / "out.safetensors")
        except BadInput:
            assert not exact
            continue
        assert exact
        found = load_file(tmp_path / "out.safetensors")["x"].double()
        assert torch.equal(found, wanted.reshape(1)) or (found.isnan() & wanted.isnan()).all()


def test_nan_and_inf_stay(tmp_path):
    held = tensors(5, torch.bfloat16)
    held["embed.weight"][0] = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0])
    held["head.weight"] = held["embed.weight"].clone()
    apply_recipe(RECIPES, stored(tmp_path, held), tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")["embed.weight"][0]
    assert torch.equal(found.isnan(), torch.tensor([True, False, False, False]))
    assert found[1:].tolist() == [np.inf, -np.inf, 0.0]


# What does not fit


def changed(name, shape):
    held = tensors()
    if shape is None:
        del held[name]
    else:
        held[name] = torch.zeros(shape)
    return held


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("h.2.down.weight", None, r"has no 'h\.2\.down\.weight'"),
        ("h.3.down.weight", (4, 4), r"has 'h\.3\.down\.weight', of which the recipe knows nothing"),
        ("h.2.down.weight", (4, 8), r"has the shape \(4, 8\) .* and \(4, 4\) in the recipe"),
    ],
)
def test_another_architecture_is_refused_by_name(name, shape, said, tmp_path):
    with pytest.raises(BadInput, match=said):
        apply_recipe(RECIPES, stored(tmp_path, changed(name, shape)), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_bad_input_is_told(tmp_path):
    source = stored(tmp_path, tensors())
    with pytest.raises(BadInput, match="there is no checkpoint"):
        apply_recipe(RECIPES, tmp_path / "nothing.safetensors", tmp_path / "out.safetensors")
    with pytest.raises(BadInput, match=r"suffix \.safetensors"):
        apply_recipe(RECIPES, source, tmp_path / "out.bin")
    with pytest.raises(BadInput, match="is the checkpoint itself"):
        apply_recipe(RECIPES, source, source)
    with pytest.raises(BadInput, match="dtype is 'int8'"):
        apply_recipe(RECIPES, source, tmp_path / "out.safetensors", dtype="int8")
    with pytest.raises(BadInput, match="recipe has no 'unet'"):
        apply_recipe(RECIPES, source, tmp_path / "out.safetensors", component="unet")
    integers = tensors() | {"embed.weight": torch.zeros(9, 4, dtype=torch.int32)}
    with pytest.raises(BadInput, match="it cannot be rescaled"):
        apply_recipe(RECIPES, stored(tmp_path, integers), tmp_path / "out.safetensors")


def test_names_of_another_layout(tmp_path):
    theirs = {"embed.weight": "tok.weight", "h.{0-2}.down.weight": "blocks.{0-2}.w2.weight"}
    (tmp_path / "names.json").write_text(json.dumps(theirs))
    spelled = {"embed.weight": "tok.weight"} | {
        f"h.{i}.down.weight": f"blocks.{i}.w2.weight" for i in range(3)
    }
    held = tensors(6, tied=True)
    source = stored(tmp_path, {spelled.get(name, name): x for name, x in held.items()})
    apply_recipe(RECIPES, source, tmp_path / "out.safetensors", names=tmp_path / "names.json")
    found = load_file(tmp_path / "out.safetensors")
    for name, x in held.items():
        assert torch.equal(found[spelled.get(name, name)], x * 2.0 ** -exponent(name))
    with pytest.raises(BadInput, match="stands for other numbers"):
        apply_recipe(RECIPES, source, tmp_path / "o.safetensors", names={"h.{0-2}.q.weight": "a"})


# LoRA

SPELLINGS = {
    "peft": ("base_model.model.{}.lora_A.weight", "base_model.model.{}.lora_B.weight"),
    "diffusers": ("unet.{}.lora.down.weight", "unet.{}.lora.up.weight"),
    "kohya": ("lora_unet_{}.lora_down.weight", "lora_unet_{}.lora_up.weight"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_factors_of_a_lora_follow(spelling, tmp_path):
    down, up = SPELLINGS[spelling]
    held, weights = {}, tensors(7)
    for name in ("h.0.down", "h.1.up", "h.2.q"):
        place = name.replace(".", "_") if spelling == "kohya" else name
        held[down.format(place)] = torch.randn(2, 4)
        held[up.format(place)] = torch.randn(4, 2)
    if spelling == "kohya":
        held["lora_unet_h_0_down.alpha"] = torch.tensor(2.0)
    apply_recipe(RECIPES, stored(tmp_path, held), tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    assert found.keys() == held.keys()
    for name in ("h.0.down", "h.1.up", "h.2.q"):
        place = name.replace(".", "_") if spelling == "kohya" else name
        a, b, k = down.format(place), up.format(place), exponent(f"{name}.weight")
        tuned = weights[f"{name}.weight"] + held[b] @ held[a]
        rescaled = weights[f"{name}.weight"] * 2.0**-k + found[b] @ found[a]
        assert torch.equal(rescaled, tuned * 2.0**-k)


def test_a_lora_of_another_architecture_is_refused(tmp_path):
    held = {"h.9.q.lora_A.weight": torch.zeros(2, 4), "h.9.q.lora_B.weight": torch.zeros(4, 2)}
    with pytest.raises(BadInput, match="of no weight of a Small"):
        apply_recipe(RECIPES, stored(tmp_path, held), tmp_path / "out.safetensors")


# Looking at what was written


def test_room_is_told_on_request(tmp_path):
    held = tensors(8)
    held["h.0.down.weight"][0, 0] = 65504.0 * 8 * 2  # two times what fits at exponent 3
    source = stored(tmp_path, held)
    assert apply_recipe(RECIPES, source, tmp_path / "a.safetensors").fits  # not looked at
    done = apply_recipe(RECIPES, source, tmp_path / "b.safetensors", check=True)
    assert not done.fits
    assert done.room == -1.0
    assert done.tightest == "h.0.down.weight"
    assert "does not fit FP16: 1.0 bits too large" in done.words()
    held["h.0.down.weight"][0, 0] = 65504.0 * 4
    done = apply_recipe(RECIPES, stored(tmp_path, held), tmp_path / "c.safetensors", check=True)
    assert (done.fits, done.room) == (True, 1.0)


# Without a framework, and in little memory


def test_no_framework_is_imported_and_little_memory_is_taken(tmp_path):
    wide = {name: (shape[0] * 100, shape[1] * 400) for name, shape in SHAPES.items()}
    held = {name: torch.randn(shape) for name, shape in wide.items()}
    del held["head.weight"]
    shapes = {name: shape for name, shape in wide.items() if name != "head.weight"}
    Recipes({"": Recipe("Wide", shapes, RECIPE.exponents)}).save(tmp_path / "r.json")
    source = stored(tmp_path, held)
    code = (
        "import resource, sys\n"
        "recipe, source, target = sys.argv[1:]\n"
        "from halfsafe import apply_recipe\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "apply_recipe(recipe, source, target)\n"
        "assert not {'torch', 'onnx', 'transformers', 'safetensors'} & set(sys.modules)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    paths = map(str, (tmp_path / "r.json", source, tmp_path / "out.safetensors"))
    command = [sys.executable, "-c", code, *paths]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert source.stat().st_size > 18e6
    assert int(ran.stdout) * 1024 < 64e6


# Of a fix


def test_a_recipe_of_a_module_is_what_its_state_dict_has():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    with torch.no_grad():
        net[0].weight.mul_(1e6)
        net[2].weight.div_(1e5)
    fixed = halfsafe.fix(net, [torch.randn(32, 8)])
    recipe = fixed.recipe().only
    assert recipe.architecture == "Sequential"
    assert recipe.exponents
    for name, x in fixed.state_dict().items():
        assert torch.equal(x, net.state_dict()[name] * 2.0 ** -recipe.exponents.get(name, 0))


class Tied(nn.Module):
    """One weight, used where it has to shrink and where it must not."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
        self.second.weight = self.first.weight
        self.norm = nn.LayerNorm(16)

    def forward(self, x):
        return self.second(self.norm(self.first(x)).sigmoid())


def test_a_tied_weight_at_two_exponents_has_no_recipe_and_no_state_dict():
    torch.manual_seed(0)
    net = Tied().eval()
    with torch.no_grad():
        net.first.weight.mul_(2e4)
    fixed = halfsafe.fix(net, [(30 * torch.randn(4, 16),)])
    with pytest.raises(FoldError, match="are one tensor in Tied, and the plan needs two"):
        fixed.state_dict()
    with pytest.raises(FoldError, match="are one tensor"):
        fixed.recipe()


def test_an_onnx_model_has_no_recipe():
    onnx = pytest.importorskip("onnx")
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[2] x) => (float[2] y) {y = Relu (x)}'
    fixed = halfsafe.fix(onnx.parser.parse_model(text), {"x": np.ones(2, np.float32)})
    with pytest.raises(FoldError, match="an ONNX file holds its constants"):
        fixed.recipe()


# On the command line


def halfsafe_says(*arguments):
    command = [sys.executable, "-m", "halfsafe", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_apply_on_the_command_line(tmp_path):
    RECIPES.save(tmp_path / "r.json")
    source, target = stored(tmp_path, tensors()), tmp_path / "out.safetensors"
    ran = halfsafe_says("apply", tmp_path / "r.json", source, "-o", target, "--check")
    assert ran.returncode == 0, ran.stderr
    assert "6 of 11 tensors rescaled" in ran.stdout
    assert "eps times 2^-6, which no file of tensors holds: set it" in ran.stdout
    assert "FP16 holds all" in ran.stdout
    ran = halfsafe_says("apply", tmp_path / "r.json", source, "-o", target, "--json")
    assert json.loads(ran.stdout)["rescaled"] == 6
    ran = halfsafe_says("apply", source, source, "-o", target)
    assert ran.returncode == 2
    assert "is no recipe" in ran.stderr
    assert "Traceback" not in ran.stderr
