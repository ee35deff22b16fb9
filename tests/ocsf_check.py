#!/usr/bin/env python3
"""Holds OCSF JSON lines against the published schema of the version that each line names.

usage: ocsf_check.py [FILE...]      (standard input without a file)

Needs the packages ocsf-json-schema (the compiled schemas 1.0.0 to 1.8.0) and jsonschema. An attribute that
the class, or the profiles that the event names, do not have is an error. Besides the schema: class, activity
and type agree, ms and RFC 3339 times agree.
Exit status: 0 every line is valid, 1 one is not, 2 usage or nothing to check.
"""

import datetime
import json
import sys

try:
    from jsonschema import Draft202012Validator
    from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema
except ImportError as missing:
    print(f"error: {missing}; pip install ocsf-json-schema==1.2.0 jsonschema", file=sys.stderr)
    sys.exit(2)

VALIDATORS = {}


def validator(version, class_uid, profiles):
    """The validator of a class under a set of profiles, made once."""
    key = (version, class_uid, tuple(sorted(profiles)))
    if key not in VALIDATORS:
        schema = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=version))
        name = schema.lookup_class_name_from_uid(class_uid=class_uid)
        compiled = schema.get_class_schema(class_name=name, profiles=sorted(profiles))
        VALIDATORS[key] = Draft202012Validator(compiled)
    return VALIDATORS[key]


def problems(event):
    """Everything wrong with one event, as text."""
    try:
        metadata = event["metadata"]
        check = validator(metadata["version"], event["class_uid"], metadata.get("profiles", []))
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        yield f"no class or version to check against: {error!r}"
        return
    for error in check.iter_errors(event):
        path = ".".join(str(part) for part in error.absolute_path) or "event"
        yield f"{path}: {error.message}"
    # The class is a number here: a schema was found for it. What is missing was said above.
    activity = event.get("activity_id")
    if isinstance(activity, int) and event.get("type_uid") != event["class_uid"] * 100 + activity:
        yield "type_uid is not class_uid * 100 + activity_id"
    if event.get("category_uid") != event["class_uid"] // 1000:
        yield "category_uid does not fit class_uid"
    for name in ("time", "start_time", "end_time"):
        text = event.get(name + "_dt")
        if text is None or name not in event:
            continue
        try:
            # Python keeps microseconds; nanoseconds are cut.
            head, _, tail = text.rstrip("Z").partition(".")
            at = datetime.datetime.fromisoformat(head + "+00:00").timestamp()
            agree = int(at) * 1000 + int((tail + "000")[:3]) == event[name]
        except (AttributeError, ValueError):
            agree = False
        if not agree:
            yield f"{name} is {event[name]}, {name}_dt is {text}"


def main(paths):
    total = bad = 0
    for path in paths or ["-"]:
        source = sys.stdin if path == "-" else open(path, encoding="utf-8")
        for number, line in enumerate(source, 1):
            total += 1
            try:
                found = list(problems(json.loads(line)))
            except json.JSONDecodeError as error:
                found = [f"not JSON: {error}"]
            for text in found:
                print(f"{path}:{number}: {text}", file=sys.stderr)
            bad += bool(found)
    print(f"{total} events, {total - bad} valid, {bad} not")
    if total == 0:
        return 2
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
