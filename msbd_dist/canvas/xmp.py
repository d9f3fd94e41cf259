"""XMP packets: what in them shows the picture as it was, and the part that JPEG keeps apart.

    without_pictures(packet)       (the packet, whether something was taken out)
    without_companions(packet)     what tells of pictures beside the main one, of which none is left
    joined(packet, extension)      JPEG's extended XMP put back into the packet

A packet of which nothing is taken keeps its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from hashlib import md5
from typing import Any, TypeAlias
from xml.dom import Node, minidom
from xml.parsers.expat import ExpatError

from msbd_dist.errors import ImageError

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_NOTE = "http://ns.adobe.com/xmp/note/"
_PICTURES = {
    "http://ns.adobe.com/xap/1.0/g/img/",
    "http://ns.google.com/photos/1.0/image/",
    "http://ns.google.com/photos/1.0/depthmap/",
    "http://ns.google.com/photos/dd/1.0/image/",
    "http://ns.google.com/photos/dd/1.0/depthmap/",
}
GAIN_MAP = b"http://ns.adobe.com/hdr-gain-map/1.0/"
_COMPANIONS = {
    GAIN_MAP.decode(),
    "http://ns.google.com/photos/1.0/container/",
    "http://ns.google.com/photos/1.0/container/item/",
    "http://ns.apple.com/HDRGainMap/1.0/",
    "http://ns.apple.com/pixeldatainfo/1.0/",
}
_CAMERA = "http://ns.google.com/photos/1.0/camera/"
_CAMERA_NAMES = ("Motion", "MicroVideo")  # so begin its properties of a video
# base64 of a JPEG and of a PNG, long enough to show something
_ENCODED = re.compile(
    r"\s*(?:data:image/[a-z]+;base64,)?\s*(?:/9j/|iVBORw0KGgo)[A-Za-z0-9+/=\s]{100,}"
)
_SIGNS = (b"/9j/", b"iVBORw0KGgo", *(space.encode() for space in _PICTURES))
MARKER_LIMIT = 65502  # bytes of a packet in one JPEG segment

_Node: TypeAlias = Any  # the types of minidom's nodes say little
_Wanted: TypeAlias = Callable[[_Node], bool]


def without_pictures(packet: bytes) -> tuple[bytes, bool]:
    """Without thumbnails and other pictures; nothing where they can't be told from the rest."""
    if not any(sign in packet for sign in _SIGNS):
        return packet, False
    return _without(packet, _is_picture)


def without_companions(packet: bytes) -> tuple[bytes, bool]:
    """Without what says that a gain map, a video or other pictures follow."""
    spaces = (*_COMPANIONS, _CAMERA)
    if not any(space.encode() in packet for space in spaces):
        return packet, False
    return _without(packet, _is_companion)


def encodes_picture(text: str) -> bool:
    """Whether a text is a JPEG or a PNG in base64."""
    return bool(_ENCODED.match(text))


def _is_picture(node: _Node) -> bool:
    text = node.nodeValue if node.nodeType in (Node.TEXT_NODE, Node.ATTRIBUTE_NODE) else None
    return node.namespaceURI in _PICTURES or encodes_picture(text or "")


def _is_companion(node: _Node) -> bool:
    video = node.namespaceURI == _CAMERA and str(node.localName).startswith(_CAMERA_NAMES)
    return video or node.namespaceURI in _COMPANIONS


def _without(packet: bytes, wanted: _Wanted) -> tuple[bytes, bool]:
    """Without each property that is, or holds, what is wanted."""
    try:
        document = _parsed(packet)
    except ImageError:
        return b"", True
    found = False
    for described in _descriptions(document):
        for node in [node for node in described.attributes.values() if wanted(node)]:
            described.removeAttributeNode(node)
            found = True
        for child in list(described.childNodes):
            if child.nodeType == Node.ELEMENT_NODE and any(map(wanted, _all_of(child))):
                described.removeChild(child)
                found = True
    return (_bytes_of(document), True) if found else (packet, False)


def _parsed(packet: bytes) -> minidom.Document:
    """ImageError where it is no XML, or has entities of its own."""
    if b"<!DOCTYPE" in packet or b"<!ENTITY" in packet:
        raise ImageError("the XMP declares entities")
    try:
        return minidom.parseString(packet.rstrip(b"\0"))
    except (ExpatError, ValueError) as error:
        raise ImageError(f"the XMP is damaged ({error})") from None


def _descriptions(document: minidom.Document) -> list[minidom.Element]:
    rdf = document.getElementsByTagNameNS(_RDF, "RDF")
    return [
        node
        for node in (rdf[0].childNodes if rdf else ())
        if node.nodeType == Node.ELEMENT_NODE and node.localName == "Description"
    ]


def _all_of(node: _Node) -> Iterator[_Node]:
    yield node
    if isinstance(node, minidom.Element):
        yield from node.attributes.values()
    for child in node.childNodes:
        yield from _all_of(child)


def _bytes_of(document: minidom.Document) -> bytes:
    """As UTF-8, without the declaration that XMP doesn't have."""
    parts = [node.toxml() for node in document.childNodes]
    return "\n".join(parts).encode("utf-8", "xmlcharrefreplace")


# ---------------------------------------------------------------- JPEG's extended XMP


def extension_id(packet: bytes) -> bytes | None:
    """The digest, as 32 digits, by which a packet names its extension."""
    found = re.search(rb"HasExtendedXMP\s*(?:=\s*[\"']|>)\s*([0-9A-Fa-f]{32})", packet)
    return found[1] if found else None


def joined(packet: bytes, extension: bytes) -> bytes:
    """One packet of both. ImageError where either can't be read."""
    document, more = _parsed(packet), _parsed(extension)
    (main, *_), others = document.getElementsByTagNameNS(_RDF, "RDF"), _descriptions(more)
    for described in _descriptions(document):
        if described.hasAttributeNS(_NOTE, "HasExtendedXMP"):
            described.removeAttributeNS(_NOTE, "HasExtendedXMP")
        for note in described.getElementsByTagNameNS(_NOTE, "HasExtendedXMP"):
            described.removeChild(note)
    for described in others:
        spaces = _spaces_above(described)
        node = document.importNode(described, deep=True)
        for name, uri in spaces.items():
            if not node.hasAttribute(name):
                node.setAttribute(name, uri)
        main.appendChild(node)
    return _bytes_of(document)


def _spaces_above(node: minidom.Element) -> dict[str, str]:
    """Prefixes that the elements around one declare; the nearest counts."""
    found: dict[str, str] = {}
    above = node.parentNode
    while isinstance(above, minidom.Element):
        for name, value in above.attributes.items():
            if name.startswith("xmlns"):
                found.setdefault(name, value)
        above = above.parentNode
    return found


def parted(packet: bytes) -> tuple[bytes, bytes]:
    """The inverse of ``joined``: a packet for one JPEG segment, and its extension."""
    body = re.sub(rb"<\?xpacket.*?\?>", b"", packet, flags=re.DOTALL).strip()
    name = md5(body, usedforsecurity=False).hexdigest().upper()
    short = (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}">'
        f'<rdf:Description rdf:about="" xmlns:xmpNote="{_NOTE}" xmpNote:HasExtendedXMP="{name}"/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )
    return short.encode(), body
