"""The Chinese edition.

python -m book.chinese gettext    bring the catalogues in book/locale/zh_CN in step with the pages
python -m book.chinese check      say which translations lack what they must keep
python -m book.chinese sources    write the Chinese sources into _build/zh
"""

import sys

from book.chinese.catalogues import gettext
from book.chinese.checks import check
from book.chinese.tree import write

if __name__ == "__main__":
    commands = {"gettext": gettext, "check": check, "sources": write}
    if sys.argv[1:2] == [] or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]]()
