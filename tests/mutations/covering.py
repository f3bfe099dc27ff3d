"""Which tests cover which module: what the automatic mutations are run against."""

import re
from pathlib import Path

from .lists import ROOT

TRAIN = ("test_trainer.py", "test_train_w*.py", "test_fcn_w*.py", "test_train_c*.py")
INFER = ("test_infer_w*.py", "test_infer_c*.py")
BUILD = ("test_build*.py",)
COVERING = {  # module: its tests' file names (patterns), the quickest to tell first
    "crf/dense.py": ["test_crf.py"],
    "crf/pool.py": ["test_crf.py"],
    "deconvnet/inference/aggregation.py": ["test_aggregation.py", "test_released.py"],
    "deconvnet/training/bn_measurement.py": ["test_bn_measurement.py"],
    "deconvnet/models/caffe.py": ["test_caffe.py"],
    "deconvnet/models/caffemodel.py": ["test_caffemodel.py", "test_caffe.py"],
    "deconvnet/training/checkpoint.py": ["test_free_keys.py", "test_trainer.py", "test_run_folder.py",
                                         "test_inspect.py", "test_schema*.py"],
    "deconvnet/evaluation/comp6.py": ["test_evaluate.py"],
    "deconvnet/data/examples.py": ["test_examples.py", "test_row_files.py", "test_trainer.py"],
    "deconvnet/support/errors.py": ["test_cli.py", "test_recipe.py"],
    "deconvnet/models/fcn.py": ["test_fcn.py", "test_weights.py", "test_caffe.py"],
    "deconvnet/data/downloads.py": ["test_downloads.py"],
    "deconvnet/support/atomic.py": ["test_atomic.py", "test_row_files.py", "test_run_folder.py"],
    "deconvnet/support/interrupts.py": ["test_atomic.py", *TRAIN, "test_interrupts*.py", "test_signals*.py"],
    "deconvnet/models/whole_map.py": ["test_folding.py"],
    "deconvnet/models/layer_table.py": ["test_inspect.py"],
    "deconvnet/evaluation/metrics.py": ["test_metrics.py", "test_evaluate.py", "test_reproduce.py"],
    "deconvnet/evaluation/paired.py": ["test_paired.py", "test_compare.py"],
    "deconvnet/models/deconvnet.py": ["test_deconvnet.py", "test_caffe.py", "test_weights.py"],
    "deconvnet/models/registry.py": ["test_network_files.py", "test_scoring.py", "test_trainer.py"],
    "deconvnet/data/palette.py": ["test_voc.py", "test_evaluate.py"],
    "deconvnet/support/progress.py": [*TRAIN, *INFER],
    "deconvnet/recipe.py": ["test_recipe*.py", "test_bounds.py", "test_free_keys.py", "test_run_folder.py"],
    "deconvnet/inference/networks.py": ["test_segmenter*.py", "test_free_keys.py", *INFER],
    "deconvnet/inference/predictions.py": ["test_free_keys.py", *INFER, "test_contents.py"],
    "deconvnet/inference/saved_scores.py": ["test_free_keys.py", *INFER],
    "deconvnet/inference/sources.py": [*INFER, "test_contents.py"],
    "deconvnet/inference/weight_choice.py": ["test_segmenter*.py"],
    "deconvnet/labelling.py": [*INFER, "test_two_at_once.py", "test_lost_workers.py", "test_memory.py"],
    "deconvnet/reporting/gallery.py": ["test_report.py", "test_photographs.py", "test_report_browser.py"],
    "deconvnet/reporting/page.py": ["test_report.py", "test_photographs.py", "test_report_browser.py"],
    "deconvnet/reporting/photographs.py": ["test_photographs.py", "test_infer_photographs.py"],
    "deconvnet/reporting/pictures.py": ["test_report.py", "test_photographs.py"],
    "experiments/gallery.py": ["test_report.py", "test_report_browser.py"],
    "deconvnet/segmenter.py": ["test_segmenter*.py", *INFER],
    "deconvnet/inference/resizing.py": ["test_resizing.py", "test_aggregation.py"],
    "deconvnet/data/sbd.py": ["test_sbd.py"],
    "deconvnet/inference/score_files.py": [*INFER, "test_inspect.py"],
    "deconvnet/inference/scoring.py": ["test_scoring.py", "test_released.py", *INFER],
    "deconvnet/training/solver.py": ["test_solver.py"],
    "deconvnet/training/trace.py": ["test_trac*.py", *TRAIN],
    "deconvnet/training/trainer.py": ["test_trainer.py", *TRAIN],
    "deconvnet/training/log_file.py": ["test_damaged_files.py", "test_trainer.py", "test_reproduce.py",
                                       "test_figures.py"],
    "deconvnet/data/dataset.py": ["test_data_sets.py"],
    "deconvnet/data/voc.py": ["test_data_sets.py", "test_voc.py", "test_images.py", "test_objects.py"],
    "deconvnet/models/weights.py": ["test_weights.py", "test_network_files.py"],
    "deconvnet/data/windows.py": ["test_windows.py", "test_select.py"],
    "proposals/edge_boxes.py": ["test_edge_boxes.py", "test_edges*.py", "test_proposal_sources.py", *BUILD],
    "proposals/edge_detectors.py": ["test_edge_detectors.py", "test_edges*.py"],
    "proposals/grid.py": ["test_proposal_sources.py"],
    "proposals/sources.py": ["test_proposal_sources.py", *BUILD],
    "proposals/edges.py": ["test_edges*.py", "test_edge_boxes.py"],
    "deconvnet/data/row_files.py": ["test_row_files.py", "test_examples.py", *BUILD],
    "deconvnet/support/engines.py": ["test_workers.py", "test_resumable.py", *BUILD],
    "deconvnet/support/ray_engine.py": ["test_workers.py"],
    "deconvnet/support/ray_worker.py": ["test_workers.py"],
    "deconvnet/support/resumable.py": ["test_resumable.py", "test_row_files.py", *BUILD],
    "proposals/select.py": ["test_select.py"],
    "stages/bn_statistics.py": ["test_bn_measurement.py"],
    "stages/build_proposals.py": [*BUILD, "test_run_folder.py"],
    "stages/cli.py": ["test_cli.py", "test_atomic.py", "test_run_folder.py", *TRAIN, "test_signals*.py"],
    "stages/download.py": ["test_downloads.py"],
    "stages/evaluate.py": ["test_evaluate.py"],
    "stages/import_caffe.py": ["test_caffe.py"],
    "deconvnet/training/lengthening.py": ["test_from*.py", "test_long*.py", *TRAIN],
    "stages/console.py": ["test_console.py", "test_installed.py"],
    "stages/infer.py": ["test_free_keys.py", *INFER],
    "stages/inspect.py": ["test_inspect.py"],
    "stages/merge_sbd.py": ["test_sbd.py"],
    "deconvnet/run_folder.py": ["test_run_folder.py", *TRAIN, *INFER],
    "deconvnet/run_sources.py": ["test_from*.py"],
    "stages/step_runner.py": ["test_run.py", "test_run_done.py", "test_study.py"],
    "stages/train.py": ["test_free_keys.py", *TRAIN, "test_run_folder.py"],
}


def covering_tests(file: str) -> str:
    """Pytest's arguments for a module: of the table, else the tests that import it, else all."""
    if file.endswith("__init__.py"):
        return "tests/stages/test_cli.py tests/test_setup.py"
    tests = ROOT / "tests"
    if file in COVERING:
        found = dict.fromkeys(path for pattern in COVERING[file] for path in sorted(tests.rglob(pattern)))
    else:
        package, module = Path(file).with_suffix("").parts
        imported = re.compile(rf"{package}\.{module}\b|from {package} import .*\b{module}\b")
        found = [path for path in sorted(tests.rglob("test_*.py")) if imported.search(path.read_text())]
    return " ".join(str(path.relative_to(ROOT)) for path in found) or "tests"
