"""Runs of the command line as forks of one process, which has imported everything and computed nothing.

Importing takes longer than training on tiny data. A fork begins at once, so that a kill at a random moment hits the run and not an
import. Each line of standard input is JSON: `{"args": […], "cwd": …, "out": …, "err": …, "before": "Python"}` starts a fork that writes to these two files and
answers with its number; `{"wait": number}` answers with its exit code, once it has one. Pictures are not drawn: that takes longer than all the rest.
"""
import json
import os
import sys
import traceback

import apr_tutorial.audit
import apr_tutorial.comparison
import apr_tutorial.reproduction
from apr_tutorial import cli
from matplotlib.figure import Figure

Figure.savefig = lambda figure, file, **options: file.write(b"a picture")


def become(args, cwd, out, err, before):
    "Be the command line with these arguments, to the end."
    os.chdir(cwd)
    with open(out, "wb") as file, open(err, "wb") as errors:
        os.dup2(file.fileno(), 1), os.dup2(errors.fileno(), 2)
    code = 1
    try:
        exec(before, {})
        sys.argv = ["apr-tutorial", *args]
        cli.main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


for line in sys.stdin:
    asked = json.loads(line)
    if "wait" in asked:
        answer = os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1])
    else:
        answer = os.fork()
        if answer == 0:
            become(**asked)
    print(answer, flush=True)
