"""`manage.py lms COMMAND …`, as the LMS has it: the variant first, and --settings read here."""

import argparse
import os
import sys

if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("variant", choices=("lms", "cms"))
    parser.add_argument("--settings", default="production")
    known, rest = parser.parse_known_args()
    os.environ["SERVICE_VARIANT"] = known.variant
    os.environ["DJANGO_SETTINGS_MODULE"] = f"lms.envs.{known.settings}"

    from django.core.management import execute_from_command_line

    execute_from_command_line([sys.argv[0], *rest])
