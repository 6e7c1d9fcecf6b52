"""What an evaluation leaves: numbers, tables, errors of each image, figures and a page that needs no other file."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from jointface.errors import DataError
from jointface.evaluation.benchmark_result import BenchmarkResult, Table
from jointface.evaluation.report import extremes_of, write_report
from jointface.evaluation.table_formats import latex, markdown, show, slug, sort_rows


def table(**changes: object) -> Table:
    frame = pd.DataFrame(
        {"[0, 30]": [3.456, 2.5, 3.1, 0.4], "mean": [4.0, np.nan, 3.5, 0.5]},
        index=["ours & <theirs>", "no_mean", "PRNet", "labels"],
    )
    settings = {"quoted": ("PRNet",), "reference": ("labels",), **changes}
    return Table("Sparse NME", "68 points, % of the box (Zhu et al., CVPR 2016).", frame, **settings)  # type: ignore[arg-type]


def figure() -> Figure:
    picture = Figure(figsize=(1, 1))
    picture.subplots().plot([0, 1])
    return picture


def picture(index: int) -> np.ndarray:
    return np.full((40, 30, 3), [40 * index, 0, 0], np.uint8)


def result(name: str = "aflw2000") -> BenchmarkResult:
    pictures = picture if name == "aflw2000" else None
    per_image = pd.DataFrame({
        "file": [f"image{n:05d}.jpg" for n in range(6)] * 2, "index": [*range(6)] * 2,
        "method": ["ours"] * 6 + ["<b>other</b>"] * 6, "yaw": np.linspace(-90, 90, 12),
        "nme_2d_68": [0.5, 0.1, 0.4, 0.2, 0.3, 0.6, *[np.nan] * 6], "nme_3d_68": [1.0] * 6 + [*range(6)],
    })  # fmt: skip
    metrics = {"num_images": 6, "ours/nme_2d_68": 0.35, "<b>other</b>/nme_2d_68": float("nan")}
    captions = {"ced": "Share of <images> below each error: the higher the better. And so on."}
    missing = {"<b>other</b>": ["image00001.jpg", "image00003.jpg"], "ours": []}
    return BenchmarkResult(
        name, metrics, [table()], per_image, {"ced": figure()}, ["Left out: <2 files>."], captions, missing, pictures
    )


class Page(HTMLParser):
    """Tags that open and close in turn, what they refer to, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.pictures: list[str] = []  # what stands for each where it cannot be seen
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href")]
        if tag == "img":
            self.pictures.append(dict(attrs).get("alt") or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    path = write_report(
        [result(), result("celeba")], folder, "A & B", {"checkpoint": "<best>.ckpt"},
        ["florence could not be run."],
    )  # fmt: skip
    assert path == folder / "report.html"
    return folder


def test_files_are_as_documented_and_whole(report: Path) -> None:
    left = {str(path.relative_to(report)) for path in report.rglob("*") if path.is_file()}
    of_each = [
        f"{stem.format(name)}"
        for name in ("aflw2000", "celeba")
        for stem in (
            "tables/{}_sparse-nme.md", "tables/{}_sparse-nme.tex", "per_image/{}.csv", "figures/{}_ced.png",
            "figures/{}_ced.pdf",
        )
    ]  # fmt: skip
    assert left == {"metrics.json", "report.html", "missing.csv", *of_each}
    assert (report / "figures" / "aflw2000_ced.pdf").read_bytes().startswith(b"%PDF")
    assert cv2.imread(str(report / "figures" / "aflw2000_ced.png")) is not None


def test_metrics_json_is_flat_and_sorted_and_an_undefined_one_is_null(report: Path) -> None:
    metrics = json.loads((report / "metrics.json").read_text())
    assert list(metrics) == sorted(metrics)
    assert metrics["aflw2000/ours/nme_2d_68"] == 0.35
    assert metrics["celeba/num_images"] == 6
    assert isinstance(metrics["celeba/num_images"], int)
    assert metrics["aflw2000/<b>other</b>/nme_2d_68"] is None


def test_errors_of_each_image_are_csv(report: Path) -> None:
    pd.testing.assert_frame_equal(
        pd.read_csv(report / "per_image" / "aflw2000.csv"), result().per_image, check_exact=False, check_dtype=False
    )


def test_all_images_without_a_prediction_are_listed(report: Path) -> None:
    assert (report / "missing.csv").read_text().splitlines() == [
        "benchmark,method,file",
        "aflw2000,<b>other</b>,image00001.jpg",
        "aflw2000,<b>other</b>,image00003.jpg",
        "celeba,<b>other</b>,image00001.jpg",
        "celeba,<b>other</b>,image00003.jpg",
    ]


def test_every_picture_has_words_that_stand_for_it(report: Path) -> None:
    page = Page()
    page.feed((report / "report.html").read_text())
    assert all(page.pictures)
    for data_set in ("AFLW2000-3D", "CelebA"):
        assert page.pictures.count(f"{data_set}: Share of <images> below each error") == 1
    assert "image00005.jpg" in page.pictures
    assert page.text.count("Share of <images> below each error: the higher the better. And so on.") == 2


def test_a_figure_without_a_caption_is_refused(tmp_path: Path) -> None:
    bare = result()
    bare.captions = {}
    with pytest.raises(ValueError, match="figure 'ced' of aflw2000 has no caption"):
        write_report([bare], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_page_needs_no_other_file_and_shows_text_as_it_is(report: Path) -> None:
    html = (report / "report.html").read_text()
    page = Page()
    page.feed(html)
    assert page.open == []
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert not re.search(r"https?://|@import|url\(", html)
    for text in (
        "A & B", "<best>.ckpt", "ours & <theirs>", "<b>other</b>", "Left out: <2 files>.", "image00005.jpg",
        "florence could not be run.", "Zhu et al., CVPR 2016", "Quoted from the papers, not measured here.",
    ):  # fmt: skip
        assert text in page.text
    kinds = [link.split(",")[0] for link in page.links if link.startswith("data:")]
    assert kinds.count("data:image/png;base64") == 2  # a figure of each benchmark
    assert kinds.count("data:image/jpeg;base64") == 12  # six faces of each method, where pictures were given


def test_the_worst_and_the_best_images_of_a_method_come_by_its_first_error() -> None:
    ours, other = extremes_of(result(), count=2)
    assert (ours["method"], ours["error"]) == ("ours", "nme_2d_68")
    assert [listed["error"] for listed in ours["worst"]] == [0.6, 0.5]
    assert [listed["file"] for listed in ours["best"]] == ["image00001.jpg", "image00003.jpg"]
    jpeg = base64.b64decode(ours["worst"][0]["thumbnail"].partition(",")[2])
    shown = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert shown.shape == (112, 84, 3)
    np.testing.assert_allclose(shown.mean((0, 1)), [200, 0, 0], atol=4)
    assert other["error"] == "nme_3d_68"  # it has no 2D errors
    assert not extremes_of(result("celeba"))[0]["worst"][0]["thumbnail"]  # it has no pictures


def test_few_images_are_listed_once() -> None:
    few = result()
    few.per_image = few.per_image.head(1)
    (one,) = extremes_of(few)
    assert (len(one["worst"]), len(one["best"])) == (1, 0)
    few.per_image = result().per_image.head(3)
    (three,) = extremes_of(few)
    assert {listed["file"] for listed in (*three["worst"], *three["best"])} == {f"image{n:05d}.jpg" for n in range(3)}


@pytest.mark.parametrize(("of_table", "listed"), [({"reference": ("ours",)}, False), ({"unranked": ("ours",)}, True)])
def test_methods_that_compete_are_listed_even_if_they_are_not_ranked(of_table: dict, listed: bool) -> None:
    given = result()
    given.tables = [table(**of_table)]
    assert [extremes["method"] for extremes in extremes_of(given)] == (["ours"] if listed else []) + ["<b>other</b>"]


# --- tables


def test_rows_are_sorted_by_their_mean_and_unknown_ones_last() -> None:
    assert list(sort_rows(table()).index) == ["labels", "PRNet", "ours & <theirs>", "no_mean"]
    assert list(sort_rows(table(lower_is_better=False)).index) == ["ours & <theirs>", "PRNet", "labels", "no_mean"]
    assert list(sort_rows(table(lower_is_better=None)).index) == list(table().frame.index)


def test_rows_are_sorted_by_the_column_that_is_named() -> None:
    assert list(sort_rows(table(sort_by="[0, 30]")).index) == ["labels", "no_mean", "PRNet", "ours & <theirs>"]


def test_a_row_of_means_stays_last() -> None:
    frame = pd.DataFrame({"accuracy": [90.0, 80.0, 95.0]}, index=["Male", "mean", "Bald"])
    assert list(sort_rows(Table("t", "c", frame, lower_is_better=False)).index) == ["Bald", "Male", "mean"]


def test_the_best_competitor_of_each_column_is_found_and_ties_share() -> None:
    rows = {row.name: row for row in show(table()).rows}
    assert rows["no_mean"].best == [True, False]
    assert rows["ours & <theirs>"].best == [False, False]  # alone in its mean
    assert not any(rows["labels"].best)  # the floor does not compete
    assert not any(rows["PRNet"].best)  # nor does what was measured elsewhere
    tied = pd.DataFrame({"x": [1.001, 1.002, 1.2]}, index=list("abc"))
    assert [row.best for row in show(Table("t", "c", tied)).rows] == [[True], [True], [False]]
    alone = Table("t", "c", tied.head(1))
    assert not show(alone).rows[0].best[0]


def test_a_row_over_other_images_is_never_the_best() -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0]}, index=["few", "a", "b"])
    shown = show(Table("t", "c", frame, unranked=("few",)))
    assert [(row.name, row.kind, *row.best) for row in shown.rows] == [
        ("few", "measured", False), ("a", "measured", True), ("b", "measured", False),
    ]  # fmt: skip


def test_markdown_marks_quoted_rows_and_the_best() -> None:
    text = markdown(show(table()))
    assert "| method | \\[0, 30\\] | mean |" in text
    assert "| *PRNet* † | *3.10* | *3.50* |" in text
    assert "| ours & \\<theirs\\> | 3.46 | 4.00 |" in text
    assert "| no\\_mean | **2.50** | – |" in text
    assert "† Quoted from the papers, not measured here." in text
    assert "†" not in markdown(show(table(quoted=())))


def test_latex_uses_booktabs_and_escapes() -> None:
    text = latex(show(table()), "tab-1")
    assert r"\textit{PRNet}$^\dagger$ & \textit{3.10} & \textit{3.50} \\" in text
    assert r"ours \& \textless{}theirs\textgreater{} & 3.46 & 4.00 \\" in text
    assert r"no\_mean & \textbf{2.50} & -- \\" in text
    assert r"68 points, \% of the box" in text
    for rule in ("toprule", "midrule", "bottomrule", r"begin{tabular}{lrr}", r"label{tab:tab-1}"):
        assert rule in text
    assert all(ord(character) < 128 for character in text)
    assert text.count("{") == text.count("}")


def test_words_and_numbers_share_a_table() -> None:
    frame = pd.DataFrame({"year": ["2018", None], "error": [1.0, 2.0]}, index=pd.Index(["a", "b"], name="protocol"))
    shown = show(Table("t", "c", frame, decimals=1))
    assert shown.header == ["protocol", "year", "error"]
    assert [row.cells for row in shown.rows] == [["2018", "1.0"], ["–", "2.0"]]


def test_slugs_are_names_of_files() -> None:
    assert slug("NME, 2D (68 points)/yaw") == "nme-2d-68-points-yaw"
    assert slug("…") == "table"


# --- what goes wrong


def test_nothing_is_written_where_a_figure_cannot_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("no font")

    broken = result()
    monkeypatch.setattr(broken.figures["ced"], "savefig", fail)
    with pytest.raises(RuntimeError, match="no font"):
        write_report([broken], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write .*file/metrics.json .*choose a folder") as caught:
        write_report([result()], tmp_path / "file")
    assert "\n" not in str(caught.value)


def test_a_report_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    first = write_report([result()], tmp_path).read_bytes()
    again = write_report([result()], tmp_path).read_bytes()
    assert first == again
    assert not list(tmp_path.rglob("*.tmp"))
