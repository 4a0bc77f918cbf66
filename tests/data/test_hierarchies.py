"""Levels above the classes: shipped, of one's own, and of rendered images."""

import pytest

from wsolfast.data import DataError, check, index, open_dataset, pack
from wsolfast.data.hierarchies import Hierarchy, list_hierarchies, read_hierarchy, shipped

HEADER = "image,class_name,x0,y0,x1,y1,split\n"


@pytest.fixture
def birds(tmp_path, write_image, write_text):
    """A folder of four images of three species; the fourth is a test image."""
    for name in "abcd":
        write_image(f"{name}.jpg")
    rows = "a.jpg,Mallard,,,,,train\nb.jpg,Gadwall,,,,,train\nc.jpg,Bobolink,,,,,train\nd.jpg,Bobolink,1,2,9,9,test\n"
    write_text("annotations.csv", HEADER + rows)
    return tmp_path


def test_cub_has_the_counts_of_its_checklist():
    cub = shipped("cub")
    names = list(cub.ancestors)
    assert cub.levels == ("family", "order")
    assert len(names) == 200
    assert [len(level) for level in cub.names(names)] == [37, 12]
    assert cub.parents(names).shape == (2, 200)
    assert [int(row.max()) + 1 for row in cub.parents(names)] == [37, 12]


@pytest.mark.parametrize(
    ("species", "family", "order"),
    [
        ("001.Black_footed_Albatross", "Diomedeidae", "Procellariiformes"),
        ("Spotted_Catbird", "Ptilonorhynchidae", "Passeriformes"),
        ("020.Yellow_breasted_Chat", "Icteriidae", "Passeriformes"),
        ("044.Frigatebird", "Fregatidae", "Suliformes"),
        ("067.Anna_Hummingbird", "Trochilidae", "Caprimulgiformes"),
        ("101.White_Pelican", "Pelecanidae", "Pelecaniformes"),
        ("118.House_Sparrow", "Passeridae", "Passeriformes"),
        ("130.Tree_Sparrow", "Passerellidae", "Passeriformes"),
        ("146.Forsters_Tern", "Laridae", "Charadriiformes"),
        ("200.Common_Yellowthroat", "Parulidae", "Passeriformes"),
    ],
)
def test_facts_of_cub(species, family, order):
    assert shipped("cub").ancestors_of(species) == (family, order)


def test_ancestors_are_numbered_by_name_among_those_that_occur():
    cub = shipped("cub")
    names = ["Mallard", "Bobolink", "Gadwall", "Cardinal"]
    assert cub.names(names) == [["Anatidae", "Cardinalidae", "Icteridae"], ["Anseriformes", "Passeriformes"]]
    assert cub.parents(names).tolist() == [[0, 2, 0, 1], [0, 1, 0, 1]]
    assert cub.parents(names[::-1]).tolist() == [[1, 0, 2, 0], [1, 0, 1, 0]]


def test_a_class_without_a_parent_is_named():
    with pytest.raises(DataError, match=r"hierarchy 'cub': the class 'Malard' has no family; did you mean 'Mallard'\?"):
        shipped("cub").parents(["Mallard", "Malard"])
    lonely = Hierarchy("table", ("family", "order"), {})
    with pytest.raises(DataError, match="the class 'zzz' has no family; give it a row with its family and order"):
        lonely.parents(["zzz"])


def test_a_csv_is_read(write_text):
    file = write_text("h.csv", "class,genus\nant,Formica\n\nbee,Apis\n")
    assert read_hierarchy(file) == Hierarchy(str(file), ("genus",), {"ant": ("Formica",), "bee": ("Apis",)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"h.csv: the header is ''; expected class and then one name for each level"),
        ("class\nant\n", "the header is 'class'; expected class and then"),
        ("family,class\n", "the header is 'family,class'"),
        ("class,family,family\n", "the header is 'class,family,family'"),
        ("class,family\nant\n", r"h.csv, line 2: expected 2 values \(class, family\), got \['ant'\]"),
        ("class,family\nant,\n", r"line 2: expected 2 values"),
        ("class,family\nant,a\nant,b\n", "line 3: the class 'ant' is listed already"),
        ("class,family,order\nant,a,x\nbee,a,y\n", "h.csv: the family 'a' is of the order 'x' and of 'y'"),
    ],
)
def test_faults_of_a_csv_are_named(write_text, text, message):
    with pytest.raises(DataError, match=message):
        read_hierarchy(write_text("h.csv", text))


def test_a_missing_file_and_one_that_is_no_text_are_named(tmp_path):
    with pytest.raises(DataError, match=r"h\.csv: missing; it is to hold the hierarchy of the classes"):
        read_hierarchy(tmp_path / "h.csv")
    (tmp_path / "h.csv").write_bytes(b"class,\xff\n")
    with pytest.raises(DataError, match=r"h\.csv: cannot be read as CSV"):
        read_hierarchy(tmp_path / "h.csv")


def test_a_folder_names_the_shipped_table_or_a_file_of_its_own(birds, write_text):
    assert open_dataset("folder", birds, "train_weaksup").hierarchy is None
    dataset = open_dataset("folder", birds, "train_weaksup", hierarchy="cub")
    assert dataset.class_names == ("Bobolink", "Gadwall", "Mallard")
    assert dataset.hierarchy.parents(dataset.class_names).tolist() == [[1, 0, 0], [1, 0, 0]]
    write_text("own.csv", "class,kind\nMallard,duck\nGadwall,duck\nBobolink,other\n")
    dataset = open_dataset("folder", birds, "train_weaksup", hierarchy="own.csv")
    dataset.relabel(["Mallard", "Bobolink", "Gadwall"])
    assert dataset.hierarchy.parents(dataset.class_names).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("cup", ValueError, r"hierarchy: expected cub or a \.csv file below the data folder, got 'cup'"),
        (3, ValueError, "got 3"),
        ("../own.csv", DataError, "'../own.csv' is not a path below the data folder"),
        ("own.csv", DataError, "own.csv: missing"),
    ],
)
def test_another_value_is_named(birds, value, error, message):
    with pytest.raises(error, match=message):
        open_dataset("folder", birds, "train_weaksup", hierarchy=value)


def test_every_data_set_takes_a_hierarchy(birds, tmp_path):
    pack("folder", birds, tmp_path / "shards", hierarchy="cub")
    index("shards", tmp_path / "shards", hierarchy="cub")
    dataset = open_dataset("shards", tmp_path / "shards", "train_weaksup", hierarchy="cub")
    assert dataset.hierarchy.parents(dataset.class_names).tolist() == [[1, 0, 0], [1, 0, 0]]


def test_rendered_animals_have_families():
    dataset = open_dataset("synthetic", None, "train_weaksup", num_classes=5)
    assert dataset.hierarchy.names(dataset.class_names) == [["beetle", "bird", "fish"]]
    assert dataset.hierarchy.parents(dataset.class_names).tolist() == [[1, 2, 0, 1, 2]]
    with pytest.raises(ValueError, match="hierarchy: expected cub or"):
        open_dataset("synthetic", None, "train_weaksup", hierarchy="own.csv")


def test_check_names_the_classes_outside_a_hierarchy_that_is_asked_for(birds, write_text):
    assert check("folder", birds, hierarchy="cub").ok
    write_text("own.csv", "class,kind\nMallard,duck\nGadwall,duck\n")
    report = check("folder", birds, hierarchy="own.csv")
    (message,) = report.problems["class outside the hierarchy"]
    assert message.startswith(f"{birds / 'own.csv'}: the class 'Bobolink' has no kind")
    assert check("folder", birds).ok


def test_shipped_tables_are_listed():
    assert list_hierarchies() == ["cub"]
