# Airflow with Kaizen and the libraries of its stages, at the versions that Kaizen is tested with. `make wheel` first.
ARG KAIZEN_AIRFLOW_BASE=apache/airflow:3.3.2-python3.12
FROM ${KAIZEN_AIRFLOW_BASE}

# Group 0 may write everywhere that the stack writes: the user is whoever owns the stack's secrets.
USER root
RUN for folder in /opt/kaizen /opt/loops /opt/airflow/logs; do \
        mkdir -p "$folder" && chgrp 0 "$folder" && chmod 2775 "$folder" || exit 1; \
    done
# DVC keeps the history of a loop's data in git.
RUN command -v git || { \
        apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/*; \
    }

USER 50000
COPY dist/*.whl constraints/dev.txt /tmp/kaizen/
RUN pip install --no-cache-dir --constraint /tmp/kaizen/dev.txt "$(echo /tmp/kaizen/*.whl)[all]" && \
    airflow version
