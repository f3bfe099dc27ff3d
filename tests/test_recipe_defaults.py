"""Every default of the recipe, held to where it comes from.

P: the paper, with its section. R: the authors' release, where the paper is silent. Long: Long, Shelhamer, Darrell,
CVPR 2015, for VGG16. Zitnick: EdgeBoxes' own defaults, which OpenCV has too. torch, library: a library's default. ours:
nobody says, so it is held to what the documentation says and the recorded results were made with.
"""

import pytest

from deconvnet.recipe import Recipe, recipe_keys, recipe_to_dict
from deconvnet.recipe_files import load_recipe
from deconvnet.recipe_limits import check_values
from deconvnet.support.errors import UsageError

VOC = ("background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
       "pottedplant sheep sofa train tvmonitor")  # the devkit's order
SOURCES = {
    "name": ("paper", "ours"),
    "seed": (0, "ours"),
    "data.format": ("voc", "P 6.1: PASCAL VOC 2012"),
    "data.classes": (VOC.split(), "P 6.1: PASCAL VOC 2012, 20 classes and background"),
    "data.train_split": ("train_aug", "P 6.1: VOC 2012's and SBD's, the list of merge_sbd"),
    "data.val_split": ("val", "P 6.1: validation images of VOC 2012"),
    "data.least_object_pixels": (16, "ours"),
    "proposals.source": ("edge_boxes", "P 6.1: edge-box"),
    "proposals.edges": ("auto", "ours"),
    "proposals.count": (2000, "P 6.1: 2,000 object proposals an image"),
    "proposals.alpha": (0.65, "Zitnick"),
    "proposals.beta": (0.75, "Zitnick"),
    "proposals.eta": (1.0, "Zitnick"),
    "proposals.min_score": (0.01, "Zitnick"),
    "windows.enlarge": (1.2, "P 6.1: extended 1.2 times larger"),
    "windows.shape": ("tight", "P 6.1: the tight box is extended"),
    "windows.outside": ("mean", "ours"),
    "windows.warp": (250, "P 6.1: 250 x 250"),
    "windows.resize": ("linear", "R: cv::resize without antialiasing"),
    "windows.stage1_labels": ("object", "P 4.2: all other pixels are background"),
    "windows.stage2_top": (50, "P 6.1: top 50 proposals"),
    "windows.stage2_overlap": (0.5, "P 4.2: IoU of 0.5 or more"),
    "windows.stage2_order": ("overlap_first", "ours: the sources leave it open"),
    "windows.stage2_with_stage1": (True, "inferred: stage 2's data is stage 1's together with the proposals"),
    "windows.balance": ("repeat", "P 6.1: redundant examples for rare classes"),
    "windows.encoding": ("png", "ours: lossless"),
    "network.width": (1.0, "P Table 2"),
    "network.input": (224, "P Table 2"),
    "network.unpooling": ("switches", "P 3.2.1"),
    "network.batch_norm": (True, "P 4.1"),
    "network.bn_eps": (1e-5, "torch"),
    "network.bn_shift": (0.0, "torch"),
    "network.bn_start": ("unit", "torch"),
    "network.fc_channels": (4096, "P Table 2"),
    "network.deconv_std": (0.01, "R: N(0, 0.01); P 6.1 says zero-mean Gaussians"),
    "network.conv_std": (0.0, "ours: He's, where no VGG16 file fills a layer"),
    "solver.lr": (0.01, "P 6.1"),
    "solver.momentum": (0.9, "P 6.1"),
    "solver.weight_decay": (0.0005, "P 6.1"),
    "solver.decay_over_accumulation": (False, "P 6.1: the decay is 0.0005"),
    "solver.momentum_rule": ("torch", "torch"),
    "solver.bias_lr": (2.0, "R"),
    "solver.bias_decay": (0.0, "R"),
    "solver.trunk_lr": (1.0, "P 6.1, R: one rate for all weights"),
    "solver.rate_rule": ("plateau", "P 6.1: reduced when validation accuracy stops improving"),
    "solver.lr_factor": (0.1, "P 6.1: by an order of magnitude"),
    "solver.lr_step": ([9000, 10000], "R: stage 1, stage 2"),
    "solver.lr_patience": (4, "ours"),
    "train.iterations": ([20000, 40000], "P 6.1: 20K and 40K"),
    "train.batch": (64, "P 6.1"),
    "train.micro_batch": (64, "P 4.1, 6.1: BN over the mini-batch"),
    "train.stage2_from": ("best", "ours: the paper does not say"),
    "train.validate_every": (500, "ours"),
    "train.validate_windows": (1000, "ours"),
    "train.validate_crop": ("centre", "ours: the paper does not say"),
    "train.checkpoint_every": (500, "ours"),
    "train.workers": (4, "ours"),
    "train.decoded_gigabytes": (16.0, "ours"),
    "bn_statistics.batches": (501, "R"),
    "bn_statistics.batch": (28, "R"),
    "bn_statistics.variance": ("unbiased", "torch"),
    "fcn.width": (1.0, "Long: VGG16"),
    "fcn.canvas": (500, "R: zero-padded to 500 x 500"),
    "fcn.fc6_kernel": (7, "Long: VGG16's fc6"),
    "fcn.fc_channels": (4096, "Long: VGG16"),
    "fcn.batch_norm": (False, "Long"),
    "fcn.bn_start": ("unit", "torch"),
    "fcn.scaled_skips": (False, "Long"),
    "fcn.staged": (True, "Long: 32s, then 16s, then 8s"),
    "fcn.iterations": ([20000, 10000, 10000], "ours"),
    "fcn.batch": (20, "Long: 20 images"),
    "fcn.micro_batch": (1, "ours"),
    "fcn.lr": (1e-4, "Long: 1e-4 for FCN-VGG16"),
    "fcn.momentum": (0.9, "Long"),
    "fcn.weight_decay": (5e-4, "Long: 5e-4"),
    "fcn.lr_step": (0, "Long: a fixed rate"),
    "fcn.trunk_lr": (1.0, "Long: one rate for all weights"),
    "fcn.validate_images": (200, "ours"),
    "segnet.examples": ("images", "Badrinarayanan: whole images"),
    "segnet.width": (1.0, "Badrinarayanan: VGG16's convolutions"),
    "segnet.canvas": (480, "Badrinarayanan: CamVid's 360 x 480, the longer side"),
    "segnet.iterations": (40000, "ours: as DeconvNet's stage 2"),
    "segnet.batch": (12, "Badrinarayanan 4: mini-batch of 12 images"),
    "segnet.micro_batch": (4, "the authors' Caffe tutorial: batch_size 4"),
    "segnet.bn_start": ("unit", "torch"),
    "segnet.lr": (0.1, "Badrinarayanan 4: fixed rate of 0.1"),
    "segnet.momentum": (0.9, "Badrinarayanan 4"),
    "segnet.weight_decay": (5e-4, "the authors' Caffe tutorial"),
    "segnet.trunk_lr": (1.0, "Badrinarayanan 4: one rate"),
    "segnet.validate": (200, "ours"),
    "runtime.precision": ("fp32", "ours"),
    "runtime.channels_last": (True, "ours"),
    "runtime.compile": (False, "ours"),
    "infer.proposals": (50, "P 6.1: the top 50"),
    "infer.least_side": (0, "P: not mentioned, so none is skipped"),
    "infer.resize": ("bilinear", "ours: OpenCV's"),
    "infer.aggregate": ("max", "P eq. 1"),
    "infer.outside": ("zero_padding", "P 5.1"),
    "infer.ensemble_rule": ("mean", "P 5.2"),
    "infer.window_batch": (8, "ours"),
    "infer.score_type": ("float16", "ours: what the 8 MB an image of docs/reproduction.md are reckoned with"),
    "infer.most_gigabytes": (5.0, "ours: an image larger than a camera's photograph is refused, not the machine lost"),
    "infer.most_side": (1000, "ours: twice VOC's photographs; a split's images are never shrunk"),
    "crf.gaussian_sxy": (3.0, "R"),
    "crf.gaussian_weight": (3.0, "R"),
    "crf.bilateral_sxy": (20.0, "R"),
    "crf.bilateral_srgb": (3.0, "R"),
    "crf.bilateral_weight": (5.0, "R"),
    "crf.iterations": (10, "R"),
    "crf.normalization": ("symmetric", "library: pydensecrf's"),
    "crf.least_probability": (0.1, "ours: for speed; what it changes is in docs/speed.md"),
}
DEFAULTS = recipe_to_dict(Recipe())
PAPER = recipe_to_dict(load_recipe("paper"))


def test_no_key_is_without_a_source() -> None:
    assert DEFAULTS.keys() == SOURCES.keys()


@pytest.mark.parametrize("name", SOURCES)
def test_a_default_is_its_sources(name: str) -> None:
    value, _ = SOURCES[name]
    assert DEFAULTS[name] == value and type(DEFAULTS[name]) is type(value)
    assert PAPER[name] == value


# What each number counts or measures says where it must begin, whatever the recipe's own table of limits says.
MAY_BE_0 = """proposals.min_score windows.stage2_overlap network.bn_eps network.deconv_std network.conv_std solver.lr
solver.momentum solver.weight_decay solver.bias_lr solver.bias_decay train.validate_windows train.workers
train.decoded_gigabytes fcn.lr
fcn.momentum fcn.weight_decay fcn.validate_images segnet.lr segnet.momentum segnet.weight_decay segnet.validate
infer.least_side infer.most_side crf.gaussian_weight crf.bilateral_weight
crf.iterations crf.least_probability seed fcn.lr_step solver.trunk_lr fcn.trunk_lr segnet.trunk_lr""".split()
MUST_NOT_BE_0 = """data.least_object_pixels proposals.count proposals.alpha proposals.beta proposals.eta windows.enlarge
windows.warp windows.stage2_top network.width network.input solver.lr_factor solver.lr_patience train.batch
train.micro_batch train.validate_every train.checkpoint_every bn_statistics.batches bn_statistics.batch fcn.width
fcn.canvas fcn.fc6_kernel fcn.batch fcn.micro_batch segnet.width segnet.canvas segnet.iterations segnet.batch
segnet.micro_batch infer.proposals infer.window_batch infer.most_gigabytes
crf.gaussian_sxy crf.bilateral_sxy crf.bilateral_srgb network.fc_channels fcn.fc_channels""".split()
NEGATIVE_TOO = ["network.bn_shift"]


def test_every_number_begins_where_it_must() -> None:
    """A negative weight of a kernel, say, would be a CRF that does the opposite."""
    numbers = {name for name, value in DEFAULTS.items() if type(value) in (int, float)}
    assert numbers == {*MAY_BE_0, *MUST_NOT_BE_0, *NEGATIVE_TOO}
    for name in sorted(numbers):
        least = -1 if type(DEFAULTS[name]) is int else -1e-3
        for value, taken in ((least, name in NEGATIVE_TOO), (0, name not in MUST_NOT_BE_0)):
            keys = recipe_keys() | {name: (value, recipe_keys()[name][1])}
            if taken:
                check_values(keys, "here")
            else:
                with pytest.raises(UsageError, match=name):
                    check_values(keys, "here")
