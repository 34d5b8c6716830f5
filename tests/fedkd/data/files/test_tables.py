"""Tables in tiny files, laid out as their authors have them; and the real ones where they are."""

import gzip

import pytest
import torch

from fedkd.data.datasets import checked, load
from fedkd.targets import LABELS, REAL

HOUSES = [
    "-122.5,37.5,41,880,129,322,126,8.25,452600",
    "-118.25,34,52,10,2,4,1,0.5,50000",
]
SHELLS = ["M,0.5,0.25,0.125,1,0.5,0.25,0.125,15", "I,0.25,0.5,0,2,1,1,1,7"]


def put(root, *names, text):
    path = root.joinpath(*names)
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = path.suffix == ".gz"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())


def write_films(root):
    """Three users; films 7 and 9 are rated ten times or more, 8 and 5 are not examples."""
    films = [
        'movieId,title,genres\n7,"One, The (1995)",Drama|War\n8,Two (1996),Drama',
        "9,Three  (1931),War",
        "5,No year,Drama",
        "6,None (1990),(no genres listed)",
    ]
    put(root, "ranking", "ml-latest-small", "movies.csv", text="\n".join(films))
    users = range(1, 12)
    rated = [(user, film, 4.0) for film in (7, 5, 6) for user in users]
    rated += [(user, 9, 0.5) for user in users if user != 3] + [(2, 8, 1.0)]
    lines = ["userId,movieId,rating,timestamp", *(f"{u},{f},{r},0" for u, f, r in rated)]
    put(root, "ranking", "ml-latest-small", "ratings.csv", text="\n".join(lines))


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("california_housing.csv.gz", ["longitude,latitude,a,b,c,d,e,f,medianHouseValue"]),
        ("cal_housing.data", []),
    ],
)
def test_california_is_houses_by_latitude_in_either_file(name, first, tmp_path):
    put(tmp_path, "regression", name, text="\n".join([*first, *HOUSES, ""]))
    data = checked(load("california", tmp_path))
    assert data.target == REAL
    torch.testing.assert_close(data.y, torch.tensor([[4.526], [0.5]]))
    assert data.x[0].tolist() == [-122.5, 37.5, 41, 880, 129, 322, 126, 8.25]
    assert data.key.tolist() == [37.5, 34.0]
    assert data.standardise == tuple(range(8))


def test_abalone_is_coded_by_sex_and_cut_by_length(tmp_path):
    put(tmp_path, "regression", "abalone.data", text="\n".join(SHELLS))
    data = checked(load("abalone", tmp_path))
    assert data.x.tolist() == [
        [1, 0, 0, 0.5, 0.25, 0.125, 1, 0.5, 0.25, 0.125],
        [0, 0, 1, 0.25, 0.5, 0, 2, 1, 1, 1],
    ]
    assert data.y.tolist() == [[15], [7]]
    assert data.key.tolist() == [0.5, 0.25]
    assert data.standardise == (3, 4, 5, 6, 7, 8, 9)


def test_films_have_ratings_of_all_users_genres_and_a_year(tmp_path):
    write_films(tmp_path)
    data = checked(load("movielens", tmp_path))
    assert (data.target, data.label_names) == (LABELS, ("Drama", "War"))
    assert data.y.tolist() == [[1, 1], [0, 1]]
    assert data.key.tolist() == [1995, 1931]
    expected = torch.tensor([[0.8] * 11, [0.1, 0.1, 0, *[0.1] * 8]])
    torch.testing.assert_close(data.x, expected)


@pytest.mark.parametrize(
    ("name", "folder", "file", "text"),
    [
        ("california", "regression", "cal_housing.data", "1,2,3"),
        ("california", "regression", "california_housing.csv.gz", "a,b,c,d,e,f,g,h,i"),
        ("abalone", "regression", "abalone.csv", SHELLS[0] + "\nX,1,1,1,1,1,1,1,1"),
        ("movielens", "ranking/ml-latest-small", "movies.csv", "movieId,title,genres\n7,One"),
    ],
)
def test_damaged_tables_are_named(name, folder, file, text, tmp_path):
    write_films(tmp_path)
    put(tmp_path, folder, file, text=text)
    with pytest.raises(ValueError, match="is damaged") as error:
        load(name, tmp_path)
    assert str(tmp_path / folder / file) in str(error.value)


@pytest.mark.data
def test_the_real_tables():
    houses, shells, films = map(load, ("california", "abalone", "movielens"))
    assert (tuple(houses.x.shape), round(float(houses.y.mean()), 4)) == ((20640, 8), 2.0686)
    assert (tuple(shells.x.shape), int(shells.y.max())) == ((4177, 10), 29)
    assert (tuple(films.x.shape), films.num_classes) == ((2269, 610), 19)
