"""The errors of DESIGN.md: what is a what, and how each reads in one line."""

import errno

import pytest
from strategies import one_line

import nsnet
from nsnet.errors import (AlreadyExists, KernelError, NetlinkError, NoSuchObject, NotPermitted, NsnetError,
                          ProtocolError, RollbackError, UsageError, netlink_error)

PARENTS = {
    UsageError: {NsnetError, ValueError},
    ProtocolError: {NsnetError},
    KernelError: {NsnetError, OSError},
    NetlinkError: {KernelError},
    AlreadyExists: {NetlinkError, FileExistsError},
    NotPermitted: {NetlinkError, PermissionError},
    NoSuchObject: {NetlinkError},
    RollbackError: {NsnetError},
}


@pytest.mark.parametrize("kind", PARENTS, ids=lambda kind: kind.__name__)
def test_the_hierarchy_is_the_one_of_the_design(kind):
    assert set(kind.__bases__) == PARENTS[kind]
    assert getattr(nsnet, kind.__name__) is kind


@pytest.mark.parametrize("kind", [ProtocolError, RollbackError, NetlinkError])
def test_only_a_usage_error_is_a_value_error(kind):
    assert not issubclass(kind, ValueError)


def test_a_kernel_error_says_the_step_the_reason_and_the_hint():
    error = KernelError(errno.EPERM, "uid_map", "line 1", "look at /proc/self/uid_map")
    assert (error.errno, error.strerror, error.step) == (errno.EPERM, "Operation not permitted", "uid_map")
    assert (error.detail, error.hint) == ("line 1", "look at /proc/self/uid_map")
    assert str(error) == "uid_map: Operation not permitted (EPERM): line 1; look at /proc/self/uid_map"
    assert str(KernelError(errno.ENOENT, "execve")) == "execve: No such file or directory (ENOENT)"


def test_an_errno_without_a_name_is_its_number():
    assert str(KernelError(4095, "clone3")) == "clone3: Unknown error 4095 (4095)"


def test_a_hint_may_come_later():
    error = KernelError(errno.EPERM, "clone3")
    error.hint = "because"
    assert str(error).endswith("(EPERM); because")


@pytest.mark.parametrize("extack, attribute, tail", [
    (None, None, ""), ("no such thing", None, ": no such thing"), (None, "IFLA_MTU", ": attribute IFLA_MTU"),
    ("bad", "IFLA_LINKINFO.IFLA_INFO_KIND", ": bad, attribute IFLA_LINKINFO.IFLA_INFO_KIND")])
def test_a_netlink_error_says_the_request_and_the_kernels_words(extack, attribute, tail):
    error = netlink_error(errno.EINVAL, "add bridge br0", extack, attribute)
    assert str(error) == f"add bridge br0: Invalid argument (EINVAL){tail}" and one_line(str(error))
    assert (error.request, error.extack, error.attribute, error.also) == ("add bridge br0", extack, attribute, [])
    assert error.step == "add bridge br0"


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EPERM, errno.EACCES, errno.ENODEV, errno.EBUSY])
def test_the_class_does_not_change_the_number(number):
    error = netlink_error(number, "it")
    assert error.errno == number and isinstance(error, NetlinkError)


def test_python_catches_them_under_its_own_names():
    with pytest.raises(FileExistsError):
        raise netlink_error(errno.EEXIST, "add it")
    for number in (errno.EPERM, errno.EACCES):
        with pytest.raises(PermissionError):
            raise netlink_error(number, "add it")
    with pytest.raises(ValueError):
        raise UsageError("bad")


def test_also_is_the_errors_own_list():
    later = [netlink_error(errno.EBUSY, "b")]
    error = netlink_error(errno.EEXIST, "a", also=later)
    later.clear()
    assert [item.request for item in error.also] == ["b"]


def test_a_rollback_error_says_both_reasons_and_what_is_left():
    cause, undoing = netlink_error(errno.EBUSY, "add veth a"), KernelError(errno.EIO, "delete a")
    error = RollbackError(cause, ["a", "br0"], undoing)
    assert error.cause is cause and error.left_behind == ["a", "br0"]
    text = str(error)
    assert str(cause) in text and str(undoing) in text and "left behind: a, br0" in text and "nsnet gc" in text
    assert one_line(text)
    assert "left behind: unknown" in str(RollbackError(cause, [], undoing))
