#!/bin/sh
# The startup command of the web app. App Service expects it on PORT, which is 8000 by default.
exec python -m chainlit run app.py --headless --host 0.0.0.0 --port "${PORT:-8000}"
