# MLflow and a driver for PostgreSQL, in the versions that Kaizen is tested with.
ARG KAIZEN_MLFLOW_BASE=python:3.12-slim
FROM ${KAIZEN_MLFLOW_BASE}

COPY constraints/dev.txt /tmp/kaizen/
# Group 0 may write: the user is whoever owns the stack's secrets.
RUN pip install --no-cache-dir --constraint /tmp/kaizen/dev.txt mlflow "psycopg[binary]" && \
    mkdir -p /mlartifacts && chgrp 0 /mlartifacts && chmod 2775 /mlartifacts
