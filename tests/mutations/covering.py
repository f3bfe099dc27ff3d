"""Which tests cover which module: what the automatic mutations are run against."""

import re
from pathlib import Path

from .lists import ROOT

TRAIN = ("test_training.py", "test_train_w*.py", "test_fcn_w*.py", "test_train_c*.py")
INFER = ("test_infer_w*.py", "test_infer_c*.py")
BUILD = ("test_build*.py",)
COVERING = {  # module: its tests' file names (patterns), the quickest to tell first
    "crf/dense.py": ["test_crf.py"],
    "crf/pool.py": ["test_crf.py"],
    "deconvnet/aggregate.py": ["test_aggregate.py", "test_released.py"],
    "deconvnet/bn_statistics.py": ["test_bn_statistics.py"],
    "deconvnet/caffe_import.py": ["test_caffe_import.py"],
    "deconvnet/caffemodel.py": ["test_caffe_import.py"],
    "deconvnet/checkpoint.py": ["test_free_keys.py", "test_training.py", "test_run_folder.py", "test_inspect.py",
                                "test_schema*.py"],
    "deconvnet/comp6.py": ["test_evaluate.py"],
    "deconvnet/crops.py": ["test_crops.py", "test_window_files.py", "test_training.py"],
    "deconvnet/errors.py": ["test_cli.py", "test_recipe.py"],
    "deconvnet/fcn.py": ["test_fcn.py", "test_weights.py", "test_caffe_import.py"],
    "deconvnet/fetch.py": ["test_download.py"],
    "deconvnet/files.py": ["test_files.py", "test_window_files.py", "test_run_folder.py"],
    "deconvnet/interrupts.py": ["test_files.py", *TRAIN, "test_interrupts*.py", "test_signals*.py"],
    "deconvnet/layer_table.py": ["test_inspect.py"],
    "deconvnet/metrics.py": ["test_metrics.py", "test_evaluate.py", "test_reproduce.py"],
    "deconvnet/network.py": ["test_network.py", "test_caffe_import.py", "test_weights.py"],
    "deconvnet/networks.py": ["test_networks.py", "test_scoring.py", "test_training.py"],
    "deconvnet/palette.py": ["test_voc.py", "test_evaluate.py"],
    "deconvnet/progress.py": [*TRAIN, *INFER],
    "deconvnet/recipe.py": ["test_recipe*.py", "test_bounds.py", "test_free_keys.py", "test_run_folder.py"],
    "deconvnet/resize.py": ["test_resize.py", "test_aggregate.py"],
    "deconvnet/sbd.py": ["test_sbd.py"],
    "deconvnet/score_files.py": [*INFER, "test_inspect.py"],
    "deconvnet/scoring.py": ["test_scoring.py", "test_released.py", *INFER],
    "deconvnet/solver.py": ["test_solver.py"],
    "deconvnet/trace.py": ["test_trac*.py", *TRAIN],
    "deconvnet/training.py": ["test_training.py", *TRAIN],
    "deconvnet/training_log.py": ["test_damaged_files.py", "test_training.py", "test_reproduce.py", "test_figures.py"],
    "deconvnet/voc.py": ["test_voc.py", "test_windows.py", "test_select.py"],
    "deconvnet/weights.py": ["test_weights.py", "test_networks.py"],
    "deconvnet/windows.py": ["test_windows.py", "test_select.py"],
    "proposals/edge_boxes.py": ["test_edge_boxes.py", "test_edges*.py", *BUILD],
    "proposals/edges.py": ["test_edges*.py", "test_edge_boxes.py"],
    "proposals/files.py": ["test_window_files.py", "test_crops.py", *BUILD],
    "proposals/parts.py": ["test_parts.py", "test_window_files.py", *BUILD],
    "proposals/select.py": ["test_select.py"],
    "stages/bn_statistics.py": ["test_bn_statistics.py"],
    "stages/build_proposals.py": [*BUILD, "test_run_folder.py"],
    "stages/cli.py": ["test_cli.py", "test_files.py", "test_run_folder.py", *TRAIN, "test_signals*.py"],
    "stages/download.py": ["test_download.py"],
    "stages/evaluate.py": ["test_evaluate.py"],
    "stages/import_caffe.py": ["test_caffe_import.py"],
    "stages/lengthening.py": ["test_from*.py", "test_long*.py", *TRAIN],
    "stages/infer.py": ["test_free_keys.py", *INFER],
    "stages/inspect.py": ["test_inspect.py"],
    "stages/merge_sbd.py": ["test_sbd.py"],
    "stages/run_folder.py": ["test_run_folder.py", *TRAIN, *INFER],
    "stages/sources.py": ["test_from*.py"],
    "stages/train.py": ["test_free_keys.py", *TRAIN, "test_run_folder.py"],
}


def covering_tests(file: str) -> str:
    """Pytest's arguments for a module: of the table, else the tests that import it, else all."""
    if file.endswith("__init__.py"):
        return "tests/test_cli.py tests/test_setup.py"
    tests = ROOT / "tests"
    if file in COVERING:
        found = dict.fromkeys(path for pattern in COVERING[file] for path in sorted(tests.glob(pattern)))
    else:
        package, module = Path(file).with_suffix("").parts
        imported = re.compile(rf"{package}\.{module}\b|from {package} import .*\b{module}\b")
        found = [path for path in sorted(tests.glob("test_*.py")) if imported.search(path.read_text())]
    return " ".join(str(path.relative_to(ROOT)) for path in found) or "tests"
