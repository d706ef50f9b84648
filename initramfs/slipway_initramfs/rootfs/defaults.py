"""Defaults of every root file system: users, name lookup, mount points, packages, trimmed paths.

Debian packages lack the results of their maintainer scripts, which do not run. Container images
lack the files that a container runtime mounts over them, and may lack nearly everything else.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from slipway_initramfs.rootfs import alternatives

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slipway_initramfs.rootfs.tree import Tree

# Last entry of a root's archive. If it is missing, the kernel ran out of memory.
SENTINEL = ".slipway-complete"
# (uid, gid) of the unprivileged user that runs programs.
RUNNER = (1000, 1000)

_MAX_CERTIFICATE = 1 << 20
_MAX_USERS = 1 << 20
_MERGED = {"amd64": ("bin", "sbin", "lib", "lib64"), "arm64": ("bin", "sbin", "lib")}
_USERS = """\
root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
runner:x:1000:1000:runner:/home/runner:/bin/sh
"""
_GROUPS = """\
root:x:0:
tty:x:5:
nogroup:x:65534:
runner:x:1000:
"""
_FILES = {
    "etc/passwd": _USERS,
    "etc/group": _GROUPS,
    "etc/hostname": "slipway\n",
    "etc/hosts": "127.0.0.1 localhost slipway\n::1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
    # The gateway of a machine with a network. Without an interface a query fails at once.
    "etc/resolv.conf": "nameserver 198.18.0.1\noptions timeout:2 attempts:2\n",
}
_DIRECTORIES = {
    "dev": 0o755,
    "proc": 0o555,
    "sys": 0o555,
    "run": 0o755,
    "root": 0o700,
    "tmp": 0o1777,
    "var/tmp": 0o1777,
    "work": 0o755,
    "home": 0o755,
}
# Links that maintainer scripts compute; added if the target exists.
_LINKS = {
    "usr/bin/sh": "dash",
    "usr/bin/c99": "gcc",
    "usr/bin/nodejs": "node",
}

# Packages of every image of Debian packages, even without tools.
# fmt: off
LEAST = ("base-files", "coreutils", "dash", "libc-bin")
# Packages that programs and scripts expect on any Debian; in every image of any source.
#
# Debian's essential packages without the package manager and the start of a machine, and the
# commands to look at processes, time zones, terminals, services by name and media types by suffix,
# and the certificates that programs with TLS trust.
TOOLS = (
    *LEAST,
    "bash", "bsdextrautils", "bsdutils", "ca-certificates", "debianutils", "diffutils", "findutils",
    "grep", "gzip", "hostname", "media-types", "ncurses-base", "ncurses-bin", "netbase",
    "perl-base", "procps", "sed", "sysvinit-utils", "tar", "tzdata", "util-linux",
)
# fmt: on

# Packages that only maintainer scripts or the start of a machine need.
#
# They and their exclusive dependencies are left out, unless a recipe names them.
# fmt: off
EXCLUDE = frozenset([
    "adduser", "debconf", "dpkg", "init-system-helpers", "openssl", "passwd", "readline-common",
    "ucf", "usrmerge", "util-linux-extra",
])
# fmt: on
# Packages tied to a version of the C library; left out if an image has its own.
C_LIBRARY_PACKAGES = ("libc6", "libc-bin")

# Paths left out of images of packages: documentation, management, configuration of a machine.
TRIM: tuple[str, ...] = (
    "usr/share/{doc,info,man,locale,lintian,bug,menu,linda,doc-base,gdb,pixmaps,applications}",
    "usr/share/{bash-completion,zsh,fish,debconf,common-licenses,polkit-1,gcc,binfmts}",
    "usr/share/{i18n,metainfo,keyrings,perl5/Debconf}",
    "usr/lib/{apt,dpkg,systemd,tmpfiles.d,sysusers.d,udev}",
    "usr/lib/{x86_64,aarch64}-linux-gnu/{audit,security,e2fsprogs}",
    # Encodings of mainframes; further copies of each time zone, with and without leap seconds.
    "usr/lib/*/gconv/{EBCDIC*,IBM0*,IBM1*,IBM2*,IBM42*,IBM49*,IBM5*,IBM80*,IBM880*,IBM90*}",
    "usr/lib/*/gconv/{IBM4517,IBM4899,IBM870,IBM871,IBM875,IBM918,IBM930,IBM933,IBM935,IBM937,IBM939,INIS*}.so",
    "usr/share/zoneinfo/{posix,right}",
    # Programs that start or partition a machine.
    "usr/sbin/{agetty,blk*,chcpu,chmem,ctrlaltdel,findfs,fsck*,fsfreeze,fstrim,getty,isosize}",
    "usr/sbin/{ldattach,mkfs*,mkswap,pivot_root,readprofile,rtcwake,runuser,sulogin,swaplabel}",
    "usr/sbin/{switch_root,wipefs,zramctl,installkernel,fstab-decode}",
    "usr/lib/init",
    "usr/bin/{addpart,delpart,partx,resizepart,wdctl,utmpdump,su,wall}",
    "var/{cache,lib,log,backups,mail,spool}/**",
    "etc/{apt,dpkg,cron*,init.d,default,logrotate.d,pam.d,security,skel,update-motd.d,systemd}",
    "etc/{rc*.d,kernel,alternatives,gprofng.rc,debconf.conf,selinux}",
    "{boot,media,mnt,srv,opt}",
)

# Paths left out of container images, which programs do not read.
CONTAINER_TRIM: tuple[str, ...] = (
    "{dev,proc,sys,run,tmp,boot}/**",
    "usr/share/{doc,info,man,lintian,bug,doc-base,gtk-doc,pixmaps}",
    "usr/share/{bash-completion,zsh,fish}",
    "var/lib/{apt,dpkg}",
    "lib/apk",
    "var/{cache,log,backups,mail,spool,tmp}/**",
    "root/.{cache,npm,wget-hsts}",
    ".dockerenv",
)


def merged_directories(architecture: str) -> tuple[str, ...]:
    """Return the directories of the root that are links into /usr in Debian."""
    return _MERGED[architecture]


def merge_usr(tree: Tree, architecture: str) -> None:
    """Create the merged /usr that Debian packages expect, before their layers are applied."""
    for name in merged_directories(architecture):
        tree.add_directory(f"usr/{name}")
        tree.add_symlink(name, f"usr/{name}")


def complete_packages(tree: Tree, scripts: Iterable[str]) -> None:
    """Add users, name lookup, mount points, certificates and the alternatives of ``scripts``."""
    for path, text in _FILES.items():
        tree.add_file(path, text.encode())
    add_mount_points(tree)
    add_alternatives(tree, scripts)
    add_certificates(tree)


def add_alternatives(tree: Tree, scripts: Iterable[str]) -> None:
    """Add the alternative names of programs from the packages' maintainer ``scripts``."""
    for path, target in _LINKS.items():
        parent = path.rpartition("/")[0]
        if tree.find(path, follow=False) is None and tree.find(f"{parent}/{target}") is not None:
            tree.add_symlink(path, target)
    alternatives.add_links(
        tree, (found for script in scripts for found in alternatives.parse_script(script))
    )


def complete_container(tree: Tree) -> None:
    """Add mount points, the programs' user and name lookup, without removing the image's users."""
    add_mount_points(tree)
    for path in ("etc/passwd", "etc/group"):
        ours = _FILES[path].splitlines()
        names = {line.partition(":")[0] for line in ours} - {"root"}
        theirs = _read_lines(tree, path)
        # Our users first: a lookup of uid 1000 finds runner, not a user of the image.
        head = [line for line in ours if line.partition(":")[0] in names]
        rest = [line for line in theirs if line.partition(":")[0] not in names]
        roots = [line for line in rest if line.startswith("root:")] or ours[:1]
        others = [line for line in rest if not line.startswith("root:")]
        tree.add_file(
            path, "\n".join([*roots, *head, *others, ""]).encode("utf-8", "surrogateescape")
        )
    for path in ("etc/hostname", "etc/hosts", "etc/resolv.conf"):
        # A container runtime mounts over these files; the image's belong to another machine.
        tree.add_file(path, _FILES[path].encode())
    if tree.find("etc/nsswitch.conf") is None:
        tree.add_file("etc/nsswitch.conf", _FILES["etc/nsswitch.conf"].encode())


def add_mount_points(tree: Tree) -> None:
    """Add the directories that the agent mounts over or works in."""
    for path, mode in _DIRECTORIES.items():
        # Links and files are replaced too: a mount over them would fail or end elsewhere.
        tree.add_directory(path, mode)
    tree.add_directory("home/runner", 0o755, RUNNER)


def _read_lines(tree: Tree, path: str) -> list[str]:
    """Return the lines of a user or group file; an empty list if it is missing or invalid."""
    node = tree.find(path)
    if node is None or not node.is_file or node.size > _MAX_USERS:
        return []
    text = node.read(_MAX_USERS).decode("utf-8", "surrogateescape")
    return [line for line in text.splitlines() if ":" in line]


def add_certificates(tree: Tree) -> None:
    """Write all of Mozilla's certificates into one file, as update-ca-certificates does.

    Go, Rust's crates, curl and wget look for that file, and OpenSSL for the link to it.
    """
    prefix = "usr/share/ca-certificates/"
    bundle = b"".join(
        node.read(_MAX_CERTIFICATE).rstrip(b"\n") + b"\n"
        for path, node in tree.walk()
        if path.startswith(prefix) and path.endswith(".crt") and stat.S_ISREG(node.mode)
    )
    if bundle:
        tree.add_file("etc/ssl/certs/ca-certificates.crt", bundle)
        tree.add_symlink("usr/lib/ssl/cert.pem", "/etc/ssl/certs/ca-certificates.crt")
        tree.remove([prefix.rstrip("/")])
