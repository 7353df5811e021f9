"""Find images by image. Importing this loads neither torch nor faiss; names load on first use."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from embedsearch._version import __version__ as __version__

if TYPE_CHECKING:  # the public names, each written here and nowhere else
    from embedsearch.core.config import (
        DecodeLimits as DecodeLimits,
        DuplicateConfig as DuplicateConfig,
        IndexConfig as IndexConfig,
        SearchBudget as SearchBudget,
        SearchConfig as SearchConfig,
        TrainConfig as TrainConfig,
    )
    from embedsearch.core.errors import (
        DamagedStore as DamagedStore,
        EmbedSearchError as EmbedSearchError,
        FilterTooSlow as FilterTooSlow,
        ImageNotFound as ImageNotFound,
        IncompatibleStore as IncompatibleStore,
        Interrupted as Interrupted,
        MissingLibrary as MissingLibrary,
        NothingIndexed as NothingIndexed,
        OverBound as OverBound,
        PlanOpen as PlanOpen,
        StorageError as StorageError,
        StoreLocked as StoreLocked,
        StoreNotFound as StoreNotFound,
        TrainingFailed as TrainingFailed,
        UnitsMissing as UnitsMissing,
        UnreadableImage as UnreadableImage,
        UsageError as UsageError,
        WeightsUnavailable as WeightsUnavailable,
    )
    from embedsearch.core.model_spec import ModelSpec as ModelSpec
    from embedsearch.core.options import (
        DuplicateOptions as DuplicateOptions,
        IndexOptions as IndexOptions,
        SearchOptions as SearchOptions,
        TrainOptions as TrainOptions,
    )
    from embedsearch.core.records import (
        Box as Box,
        Failure as Failure,
        Hit as Hit,
        ImageRecord as ImageRecord,
        Progress as Progress,
        Reason as Reason,
        Stage as Stage,
    )
    from embedsearch.core.session import Session as Session
    from embedsearch.core.walks import Ignored as Ignored
    from embedsearch.curation.clusters import (
        Cluster as Cluster,
        Outlier as Outlier,
        clusters as clusters,
        outliers as outliers,
    )
    from embedsearch.curation.collection import Picture as Picture
    from embedsearch.curation.copies import (
        Copy as Copy,
        DuplicateGroup as DuplicateGroup,
        DuplicateReport as DuplicateReport,
    )
    from embedsearch.curation.duplicates import UnmetWish as UnmetWish, duplicates as duplicates
    from embedsearch.curation.picture_map import (
        MapPoint as MapPoint,
        PictureMap as PictureMap,
        picture_map as picture_map,
    )
    from embedsearch.curation.script import write_script as write_script
    from embedsearch.exchange.export import ExportReport as ExportReport, export as export
    from embedsearch.exchange.import_vectors import (
        ImportReport as ImportReport,
        import_vectors as import_vectors,
    )
    from embedsearch.exchange.pull import PullReport as PullReport, pull as pull
    from embedsearch.exchange.upload import UploadReport as UploadReport, upload as upload
    from embedsearch.indexing.bench import BenchReport as BenchReport, bench as bench
    from embedsearch.indexing.distributed.commit import (
        CommitReport as CommitReport,
        commit as commit,
        discard_plan as discard_plan,
    )
    from embedsearch.indexing.distributed.plan import plan as plan
    from embedsearch.indexing.distributed.ray import index_on_ray as index_on_ray
    from embedsearch.indexing.distributed.run import (
        UnitsReport as UnitsReport,
        index_share as index_share,
        run_units as run_units,
    )
    from embedsearch.indexing.repair import repair as repair
    from embedsearch.indexing.report import (
        IndexReport as IndexReport,
        MetadataReport as MetadataReport,
    )
    from embedsearch.indexing.roots import (
        RootsReport as RootsReport,
        forget as forget,
        relocate as relocate,
    )
    from embedsearch.indexing.sync import index as index
    from embedsearch.indexing.watch import watch as watch
    from embedsearch.learning.evaluate import evaluate as evaluate
    from embedsearch.learning.evaluate_texts import evaluate_texts as evaluate_texts
    from embedsearch.learning.reports import (
        ClassMeasure as ClassMeasure,
        Epoch as Epoch,
        Estimate as Estimate,
        Evaluation as Evaluation,
        GroupMeasure as GroupMeasure,
        Quality as Quality,
        StagePlan as StagePlan,
        TextEvaluation as TextEvaluation,
        TrainReport as TrainReport,
        WorstQuery as WorstQuery,
    )
    from embedsearch.learning.train import train as train
    from embedsearch.network.prepared import PrepareReport as PrepareReport, prepare as prepare
    from embedsearch.network.weights import ModelInfo as ModelInfo, models as models
    from embedsearch.searching.browsing.folders import (
        FolderCount as FolderCount,
        FolderList as FolderList,
    )
    from embedsearch.searching.browsing.records import ImageList as ImageList
    from embedsearch.searching.browsing.values import (
        ColumnValues as ColumnValues,
        MonthCount as MonthCount,
        ValueCount as ValueCount,
    )
    from embedsearch.searching.embedder import ImageEmbedder as ImageEmbedder
    from embedsearch.searching.queries import (
        Crop as Crop,
        Key as Key,
        Mix as Mix,
        Text as Text,
    )
    from embedsearch.searching.ranking.counts import (
        ScoreCounts as ScoreCounts,
        SearchCounts as SearchCounts,
    )
    from embedsearch.searching.searcher import (
        Answer as Answer,
        Searcher as Searcher,
        open_store as open_store,
    )
    from embedsearch.store.check import (
        CheckReport as CheckReport,
        Problem as Problem,
        check as check,
    )
    from embedsearch.store.info import (
        GenerationInfo as GenerationInfo,
        StoreFailure as StoreFailure,
        StoreInfo as StoreInfo,
        failures as failures,
        generations as generations,
        info as info,
    )
    from embedsearch.store.manifest import Manifest as Manifest
    from embedsearch.store.units import UnitPlan as UnitPlan

    __all__: list[str]


@cache
def _homes() -> dict[str, str]:
    """Return the module of each public name, read from the imports above, which never run."""
    import dis

    loader: Any = __spec__ and __spec__.loader
    homes, module = {}, ""
    for instruction in dis.get_instructions(loader.get_code(__name__)):
        if instruction.opname == "IMPORT_NAME":
            module = instruction.argval
        elif instruction.opname == "IMPORT_FROM" and module.startswith("embedsearch."):
            homes[instruction.argval] = module
    return homes


if not TYPE_CHECKING:  # else a misspelled name would be Any

    def __getattr__(name: str) -> Any:
        if name == "__all__":
            return sorted(_homes())
        if name.startswith("_") or name not in _homes():
            raise AttributeError(f"module 'embedsearch' has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(_homes()[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted(_homes())
