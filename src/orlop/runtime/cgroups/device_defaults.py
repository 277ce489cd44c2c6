"""The devices that every container may use, whatever its configuration says (runtime-spec, "Default Devices")."""

from __future__ import annotations

from orlop.spec.oci import DeviceRule, default_device_rules, parse_resources
from orlop.spec.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.spec.oci import Resources

_DENY_ALL = DeviceRule(allow=False)
_DEFAULT = parse_resources({"devices": default_device_rules()}).devices


def with_default_devices(resources: Resources) -> Resources:
    """Add the default devices to the rules; without any rule at all everything else is refused, as in runc."""
    rules = resources.devices or (_DENY_ALL,)
    if rules == _DEFAULT or _allows_by_default(rules):
        return resources
    missing = tuple(rule for rule in _DEFAULT if rule.allow and rule not in rules)
    return replace(resources, devices=rules + missing)


def _allows_by_default(rules: tuple[DeviceRule, ...]) -> bool:
    """Whether a device that no rule names may be used; what is refused then was refused by name, and stays so."""
    for rule in reversed(rules):
        if rule.type == "a" and rule.major is None and rule.minor is None and rule.access == "rwm":
            return rule.allow
    return False
