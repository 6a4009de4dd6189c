#!/usr/bin/env python3
"""Prints the test vectors of levee's SYN cookies as JSON: vectors.py > vectors.json

Written from the text of the package comment (doc.go), with a SipHash and an HKDF of its own,
both checked against their official vectors first. It shares no code with the Go package, so
that the two can only agree by both following the text. Needs nothing but Python 3.8.
"""

import hashlib
import hmac
import ipaddress
import json
import struct

U64 = (1 << 64) - 1

MSS = {4: [536, 1200, 1360, 1400, 1440, 1452, 1460, 8960],
       6: [1220, 1280, 1340, 1380, 1420, 1432, 1440, 8940]}
NONE = 15  # no window scaling
PLAIN_WSCALE = [NONE, 0, 2, 5, 6, 7, 8, 10]


def rotl(x, n):
    return (x << n | x >> (64 - n)) & U64


def siphash24(key, msg):
    """SipHash-2-4 of Aumasson and Bernstein (2012), 64 bits."""
    k0, k1 = struct.unpack("<QQ", key)
    v0, v1 = k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d
    v2, v3 = k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573

    def rounds(n):
        nonlocal v0, v1, v2, v3
        for _ in range(n):
            v0, v2 = (v0 + v1) & U64, (v2 + v3) & U64
            v1, v3 = rotl(v1, 13) ^ v0, rotl(v3, 16) ^ v2
            v0 = rotl(v0, 32)
            v2, v0 = (v2 + v1) & U64, (v0 + v3) & U64
            v1, v3 = rotl(v1, 17) ^ v2, rotl(v3, 21) ^ v0
            v2 = rotl(v2, 32)

    padded = msg + b"\0" * (7 - len(msg) % 8) + bytes([len(msg) % 256])
    for (m,) in struct.iter_unpack("<Q", padded):
        v3 ^= m
        rounds(2)
        v0 ^= m
    v2 ^= 0xff
    rounds(4)
    return v0 ^ v1 ^ v2 ^ v3


def hkdf_sha256(ikm, salt, info, length):
    """RFC 5869."""
    prk = hmac.new(salt or b"\0" * 32, ikm, hashlib.sha256).digest()
    okm, t, i = b"", b"", 1
    while len(okm) < length:
        t = hmac.new(prk, t + info + bytes([i]), hashlib.sha256).digest()
        okm, i = okm + t, i + 1
    return okm[:length]


# Key 00 01 .. 0f; the i-th message is 00 01 .. i-1 (vectors of the reference implementation).
SIPHASH_REFERENCE = """
    310e0edd47db6f72 fd67dc93c539f874 5a4fa9d909806c0d 2d7efbd796666785
    b7877127e09427cf 8da699cd64557618 cee3fe586e46c9cb 37d1018bf50002ab
    6224939a79f5f593 b0e4a90bdf82009e f3b9dd94c5bb5d7a a7ad6b22462fb3f4
    fbe50e86bc8f1e75 903d84c02756ea14 eef27a8e90ca23f7 e545be4961ca29a1
    db9bc2577fcc2a3f 9447be2cf5e99a69 9cd38d96f0b3c14b bd6179a71dc96dbb
    98eea21af25cd6be c7673b2eb0cbf2d0 883ea3e395675393 c8ce5ccd8c030ca8
    94af49f6c650adb8 eab8858ade92e1bc f315bb5bb835d817 adcf6b0763612e2f
    a5c91da7acaa4dde 716595876650a2a6 28ef495c53a387ad 42c341d8fa92d832
    ce7cf2722f512771 e37859f94623f3a7 381205bb1ab0e012 ae97a10fd434e015
    b4a31508beff4d31 81396229f0907902 4d0cf49ee5d4dcca 5c73336a76d8bf9a
    d0a704536ba93e0e 925958fcd6420cad a915c29bc8067318 952b79f3bc0aa6d4
    f21df2e41d4535f9 87577519048f53a9 10a56cf5dfcd9adb eb75095ccd986cd0
    51a9cb9ecba312e6 96afadfc2ce666c7 72fe52975a4364ee 5a1645b276d592a1
    b274cb8ebf87870a 6f9bb4203de7b381 eaecb2a30b22a87f 9924a43cc1315724
    bd838d3aafbf8db7 0b1a2a3265d51aea 135079a3231ce660 932b2846e4d70666
    e1915f5cb1eca46c f325965ca16d629f 575ff28e60381be5 724506eb4c328a95
""".split()


def check_primitives():
    key = bytes(range(16))
    # Appendix A of the SipHash paper.
    assert siphash24(key, bytes(range(15))) == 0xa129ca6149be45e5
    assert len(SIPHASH_REFERENCE) == 64
    for i, want in enumerate(SIPHASH_REFERENCE):
        assert struct.pack("<Q", siphash24(key, bytes(range(i)))).hex() == want, i
    # RFC 5869 appendix A.1 and A.3 (no salt, no info).
    assert hkdf_sha256(b"\x0b" * 22, bytes(range(13)), bytes(range(0xf0, 0xfa)), 42).hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")
    assert hkdf_sha256(b"\x0b" * 22, b"", b"", 42).hex() == (
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8")


def epoch_key(secret, epoch):
    return hkdf_sha256(secret, b"", b"levee cookie v1 epoch %d" % epoch, 16)


def message(family, timestamps, mss_index, rest, conn):
    client, server = (ipaddress.ip_address(conn[x]).packed for x in ("client", "server"))
    layout = (1 if timestamps else 0) + (2 if family == 6 else 0)
    return (bytes([layout, mss_index, rest, 0]) + struct.pack(
        ">IHH", conn["client_isn"], conn["client_port"], conn["server_port"]) + client + server)


def last_not_above(table, value):
    """Index of the largest number in an ascending table that is not above value, else 0."""
    return max((i for i, x in enumerate(table) if x <= value), default=0)


def issue(secret, unix, family, timestamps, conn, opt):
    epoch = unix // 64
    key = epoch_key(secret, epoch)
    mss_index = last_not_above(MSS[family], opt["mss"])
    ws, sack, ecn = opt["wscale"], opt["sack"], opt["ecn"]
    if timestamps:
        rest = 32 * ecn + 16 * sack + ws
        back = {"mss": MSS[family][mss_index], "wscale": ws, "sack": sack, "ecn": ecn}
    else:
        index = 0 if ws == NONE else 1 + last_not_above(PLAIN_WSCALE[1:], ws)
        rest = 2 * index + sack
        back = {"mss": MSS[family][mss_index], "wscale": PLAIN_WSCALE[index], "sack": sack, "ecn": False}
    msg = message(family, timestamps, mss_index, rest, conn)
    h = siphash24(key, msg)
    top = (epoch % 2) * 2**31 + mss_index * 2**28
    if timestamps:
        isn, tsval = top + h % 2**28, (h // 2**38) * 2**6 + rest
    else:
        isn, tsval = top + rest * 2**24 + h % 2**24, 0
    return {"epoch": epoch, "key": key.hex(), "message": msg.hex(), "siphash": "%016x" % h,
            "isn": "%08x" % isn, "tsval": "%08x" % tsval, "back": back}


def check(secret, unix, family, timestamps, conn, isn, tsval):
    """Whether the cookie is good at that time, conn's client_isn being known."""
    epoch = unix // 64
    if epoch % 2 != isn >> 31:
        epoch -= 1
    mss_index = isn >> 28 & 7
    rest = tsval & 63 if timestamps else isn >> 24 & 15
    h = siphash24(epoch_key(secret, epoch), message(family, timestamps, mss_index, rest, conn))
    if timestamps:
        return h % 2**28 == isn % 2**28 and h >> 38 == tsval >> 6
    return h % 2**24 == isn % 2**24


SECRETS = [bytes(range(32)), hashlib.sha256(b"a second secret").digest()]
ADDRESSES = {4: [("192.0.2.1", "198.51.100.2"), ("203.0.113.255", "198.18.0.1")],
             6: [("2001:db8::1", "2001:db8:1::2"), ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db8::")]}
NOW = 1790000011


def vectors():
    made = []

    def add(why, family, timestamps, unix=NOW, mss=1460, ws=7, sack=True, ecn=False, **conn):
        n = len(made)
        client, server = ADDRESSES[family][n // 2 % 2]
        conn = {"client": client, "server": server, "client_port": (1024 + 977 * n) % 2**16, "server_port": 443,
                "client_isn": (0x9e3779b9 * (n + 1)) % 2**32, **conn}
        secret = SECRETS[n % 2]
        opt = {"mss": mss, "wscale": ws, "sack": sack, "ecn": ecn}
        out = issue(secret, unix, family, timestamps, conn, opt)
        isn, tsval = int(out["isn"], 16), int(out["tsval"], 16)
        # The first and last second of life, and the seconds outside.
        first = unix // 64 * 64
        accept, refuse = [first, unix, first + 127], [first - 1, first + 128, first + 192]
        for at in accept:
            assert check(secret, at, family, timestamps, conn, isn, tsval), (why, at)
        for at in refuse:
            assert not check(secret, at, family, timestamps, conn, isn, tsval), (why, at)
        conn["client_isn"] = "%08x" % conn["client_isn"]
        made.append({"name": "%d: IPv%d, %s: %s" % (n, family, "timestamps" if timestamps else "plain", why),
                     "secret": secret.hex(), "unix": unix, **conn, "timestamps": timestamps, "options": opt, **out,
                     "accept": accept, "refuse": refuse})

    for family in (4, 6):
        for i, ws in enumerate(PLAIN_WSCALE):
            for sack in (False, True):
                add("every option bit", family, False, mss=MSS[family][i if sack else 7 - i], ws=ws, sack=sack)
        for ws in range(16):
            add("every option bit", family, True, mss=MSS[family][ws % 8], ws=ws, sack=ws % 2 == 1, ecn=ws // 2 % 2 == 1)
        for sack, ecn in ((False, False), (False, True), (True, False), (True, True)):
            add("SACK and ECN", family, True, sack=sack, ecn=ecn, ws=NONE)
        add("ECN does not fit", family, False, ecn=True)
        for timestamps in (False, True):
            for unix in (-65, -64, -1, 0, 63, 64, 2**31 - 1, 2**32, NOW // 128 * 128 - 1, NOW // 128 * 128):
                add("epoch edge", family, timestamps, unix=unix)
            for mss in (0, 400, MSS[family][0] - 1, MSS[family][1] - 1, MSS[family][7] - 1, 65535):
                add("MSS between entries", family, timestamps, mss=mss)
            add("smallest numbers", family, timestamps, client_isn=0, client_port=0, server_port=0)
            add("largest numbers", family, timestamps, client_isn=2**32 - 1, client_port=65535, server_port=65535)
        for ws in (1, 3, 4, 9, 11, 14):
            add("wscale between entries", family, False, ws=ws)
    add("one address v4-mapped", 6, False, client="::ffff:192.0.2.1")
    add("one address v4-mapped", 6, True, server="::ffff:192.0.2.1")
    return made


def main():
    check_primitives()
    lines = ",\n".join("  " + json.dumps(v) for v in vectors())
    print('{"about": "Test vectors of levee\'s SYN cookies, made by vectors.py; doc.go explains the terms. '
          'back: the options that a check gives back; accept, refuse: times of a check and its outcome.",\n'
          '"vectors": [\n%s\n]}' % lines)


if __name__ == "__main__":
    main()
