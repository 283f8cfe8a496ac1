"""The drawn faces: the same for the same keys, whatever else is drawn, and captions that say only what is seen."""

import re
import time
from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgfr.core import TgfrError, rng
from tgfr.data.drawing import render
from tgfr.data.faces import encode_jpeg
from tgfr.data.synthetic import PERSON, PHOTO, Person, Photo, make_captions, synthetic_faces, visible_attributes

VALUES = [
    (name, value, text)
    for name, values in (PERSON | PHOTO).items()
    for value, (*_, texts) in values.items()
    for text in texts.split("/")
]
BARE = {
    (name, value): [text.split(" ", 1)[1] for n, v, text in VALUES if (n, v) == (name, value)]
    for name, value, _ in VALUES
}
PHRASE = re.compile(
    "|".join(sorted({re.escape(p) for ps in BARE.values() for p in ps}, key=len, reverse=True))
)  # the longest first
GLUE = set("the this she he woman man person is has wears wearing and".split())


def pixels(row):
    return cv2.imdecode(np.frombuffer(row["image"]["bytes"], np.uint8), cv2.IMREAD_COLOR)


def sample(k, j=0, seed=0):
    "Person `k` and their photo `j`, by the keys that the dataset uses."
    person = Person.draw(rng(seed, "person", k))
    return person, Photo.draw(rng(seed, "photo", k, j), person)


def test_same_seed_same_faces_and_another_seed_others():
    a, b, c = (synthetic_faces(people=3, photos=2, seed=seed) for seed in (5, 5, 6))
    assert a.to_list() == b.to_list()
    assert all(x["image"] != y["image"] and x["captions"] != y["captions"] for x, y in zip(a, c))


def test_a_part_is_the_same_as_in_a_larger_set():
    large, part = synthetic_faces(people=5, photos=3, first=98), synthetic_faces(people=2, photos=2, first=100)
    inside = [row for row in large if row["photo_id"] in set(part["photo_id"])]
    assert part["photo_id"] == ["100/0", "100/1", "101/0", "101/1"]
    assert part.to_list() == inside


def test_drawing_uses_no_global_generator():
    person, photo = sample(3)
    pictures = []
    for seed in (0, 1):
        np.random.seed(seed), cv2.setRNGSeed(seed)
        pictures.append(render(person, photo))
    np.testing.assert_array_equal(*pictures)


def test_canonical_form():
    faces = synthetic_faces(people=2, photos=3)
    assert {name: str(kind) for name, kind in faces.features.items()} == {
        "image": "Image(mode=None, decode=False)",
        "identity": "Value('int64')",
        "photo_id": "Value('string')",
        "captions": "List(Value('string'))",
        "attributes": "Value('string')",
    }
    assert faces["identity"] == [0, 0, 0, 1, 1, 1]
    assert len(set(faces["photo_id"])) == 6
    assert all(row["image"]["bytes"].startswith(b"\xff\xd8") and pixels(row).shape == (112, 112, 3) for row in faces)


def test_the_jpeg_holds_the_rendered_picture_in_rgb():
    person, photo = sample(2, 1)
    row = synthetic_faces(people=1, photos=2, first=2)[1]
    assert row["image"]["bytes"] == encode_jpeg(render(person, photo), 95)
    assert np.abs(pixels(row)[..., ::-1].astype(int) - render(person, photo)).mean() < 4


@pytest.mark.parametrize("size", [16, 50, 160, 300])
def test_other_sizes_show_the_same_picture(size):
    person, photo = sample(7)
    common = min(
        size, 112
    )  # both are averaged down to the smaller one's pixels, so that they differ in their grain alone
    picture = render(person, photo, size)
    small = lambda image: cv2.resize(image, (common, common), interpolation=cv2.INTER_AREA).astype(float)
    assert (picture.shape, picture.dtype) == ((size, size, 3), np.uint8)
    assert pixels(synthetic_faces(people=1, photos=1, size=size)[0]).shape == (size, size, 3)
    other = render(*sample(8), size)
    assert (
        np.abs(small(picture) - small(render(person, photo))).mean() < 6 < np.abs(small(picture) - small(other)).mean()
    )


@given(k=st.integers(0, 10**6), j=st.integers(0, 10))
@settings(max_examples=60, deadline=None)
def test_captions_differ_and_say_only_what_is_seen(k, j):
    person, photo = sample(k, j)
    values = asdict(person) | asdict(photo)
    true = {phrase for name in visible_attributes(person, photo) for phrase in BARE[name, values[name]]}
    captions = make_captions(person, photo, rng(0, "captions", k, j))
    assert len(set(captions)) == len(captions) == 5
    for caption in captions:
        said = PHRASE.findall(caption)
        assert said and set(said) <= true, caption
        assert set(re.findall(r"[a-z]+", PHRASE.sub("", caption).lower())) <= GLUE, caption
        assert not re.search(r"\b(he|man)\b" if person.gender == "woman" else r"\b(she|woman)\b", caption.lower())
        assert caption[0].isupper() and caption.endswith(".") and "  " not in caption


@pytest.mark.parametrize(
    "worn, unseen",
    [
        ({"hat": "cap"}, {"hair", "bangs"}),
        ({"sunglasses": "yes"}, {"eye_colour", "eyes", "bags", "squint"}),
        ({"beard": "full"}, {"face"}),
    ],
)
def test_what_is_hidden_goes_unsaid(worn, unseen):
    person, photo = sample(0)
    person = replace(person, gender="man", hair="bald", bags="yes", eyes="big", face="oval", bangs="no")
    plain = dict(hat="no", sunglasses="no", beard="no", squint="no")
    known = visible_attributes(person, replace(photo, **plain))
    hidden = visible_attributes(person, replace(photo, **plain | worn))
    assert not unseen & set(hidden) and set(worn) <= set(hidden)
    assert (unseen - {"bangs", "squint"}) <= set(known) and "hair_colour" not in known


def test_this_days_beard_and_glasses_replace_the_habit():
    person, photo = sample(0)
    person, photo = replace(person, beard="full", glasses="yes"), replace(photo, beard="stubble", glasses="no")
    visible = visible_attributes(person, photo)
    assert visible["beard"][0] == "has stubble" and "glasses" not in visible


@pytest.mark.parametrize(
    "name", ["smile", "mouth", "squint", "lipstick", "makeup", "earrings", "hat", "sunglasses", "glasses", "beard"]
)
def test_each_photo_attribute_changes_the_picture(name):
    person = replace(sample(1)[0], bangs="no")
    photo = replace(sample(1)[1], **dict.fromkeys([*PHOTO, "glasses", "beard"], "no"))
    for value in (PERSON | PHOTO)[name]:
        assert (render(person, replace(photo, **{name: value})) != render(person, photo)).any(-1).sum() > 30, value


@pytest.mark.parametrize("name", [name for name in PERSON if name not in ("beard", "glasses", "age", "hair_colour")])
def test_each_person_attribute_changes_the_picture(name):
    photo = replace(sample(1)[1], **dict.fromkeys([*PHOTO, "glasses", "beard"], "no"))
    values = [*PERSON[name]] + ["no"] * ("yes" in PERSON[name])
    pictures = [render(replace(sample(1)[0], **{name: value}), photo) for value in values]
    assert all((a != b).any(-1).sum() > 30 for i, a in enumerate(pictures) for b in pictures[:i])


def test_chances_are_kept_and_people_share_words():
    people = [Person.draw(rng(1, "person", k)) for k in range(600)]
    for gender in (0, 1):
        group = [p for p in people if p.gender == ("woman", "man")[gender]]
        for name in ("skin", "brows", "nose", "freckles"):
            for value, chances in PERSON[name].items():
                assert abs(np.mean([getattr(p, name) == value for p in group]) - chances[gender]) < 0.09, (name, value)
    assert (
        len({tuple(asdict(p).items())[:-1] for p in people}) > 590
    )  # all words together nearly name a person; five of them do not
    assert len({(p.gender, p.hair, p.hair_colour, p.age, p.brows) for p in people}) < 350


def test_identities_are_more_alike_than_strangers():
    light = dict(light=-1.5, contrast=0.2, warmth=0.0, exposure=1.0, yaw=0.0, pitch=0.0, roll=0.0, zoom=0.93, shift=0j)
    face = lambda person, photo: render(person, replace(photo, **light), 32)[6:28, 8:24].astype(float)
    faces = np.stack([[face(*sample(k, j)) for j in range(2)] for k in range(30)])
    distance = np.abs(faces[:, None, 0] - faces[None, :, 1]).mean((2, 3, 4))
    assert (distance.argmin(1) == np.arange(30)).mean() > 0.6


def test_fast_enough():
    start = time.process_time()
    synthetic_faces(people=10, photos=10)
    assert time.process_time() - start < 40 * 100 / 2000 * 2  # 40 s for 200 x 10, twice that on a busy machine


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"people": 0}, "people 0"),
        ({"photos": -1}, "photos -1"),
        ({"size": 15}, "size 15: expected 16 to 1024"),
        ({"size": 1025}, "size 1025"),
        ({"first": -1}, "first -1"),
    ],
)
def test_wrong_use(wrong, message):
    with pytest.raises(TgfrError, match=message):
        synthetic_faces(**wrong)
