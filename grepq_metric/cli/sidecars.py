"""Stars in XMP sidecars, which programs for photos read."""

from __future__ import annotations

import math
from pathlib import Path

from grepq_metric.errors import InputError
from grepq_metric.files import whole_file
from grepq_metric.images import CAMERA_RAW

STARS = 5
"""From 1 for the lowest fifth of the reference photos to 5 for the highest."""
MARK = "grepq_metric"
"""By which our own sidecars are known: all others hold somebody's work."""
_PACKET = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
   xmp:Rating="{stars}"
   xmp:CreatorTool="{mark}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""


def stars(percentile: float) -> int:
    """1 to 5 stars: each is a fifth of the reference photos."""
    return min(max(math.ceil(percentile * STARS / 100), 1), STARS)


def write_sidecars(photo: str, percentile: float) -> list[Path]:
    """Write ``PHOTO.xmp`` with the stars of a photo, and of a camera's raw file also ``NAME.xmp``, without its ending.

    darktable and digiKam look for the former, Lightroom for the latter, of raw files alone.

    Raises:
        InputError: the photo is no file, such as one in an archive, or has a sidecar of another program, which is left alone;
            none is written then.
        OSError: it can't be written.
    """
    if not Path(photo).is_file():
        raise InputError(f"{photo} is no file that a sidecar could lie beside")
    paths = [Path(f"{photo}.xmp")]
    if Path(photo).suffix.lower() in CAMERA_RAW:
        paths.append(Path(photo).with_suffix(".xmp"))
    for path in paths:
        if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
            raise InputError(f"{path} is the sidecar of another program, which is left as it is: no stars were written")
    for path in paths:
        with whole_file(path) as part:
            part.write_text(_PACKET.format(stars=stars(percentile), mark=MARK), encoding="utf-8")
    return paths
