#!/bin/sh
# One role and one database for each line of a pgpass file; run again it sets the passwords anew and changes nothing
# else. The passwords are read here, and shown to no command line and no log.
set -eu
PGPASSWORD=$(cat /run/secrets/postgres_password)
export PGPASSWORD

cat /run/secrets/airflow_pgpass /run/secrets/mlflow_pgpass |
    while IFS=: read -r host port database role password; do
        echo "database $database for role $role"
        PASSWORD=$password psql --quiet --no-psqlrc --set=ON_ERROR_STOP=1 \
            --set="role=$role" --set="database=$database" --file=- <<'SQL'
\getenv password PASSWORD
set log_statement = 'none';
set log_min_error_statement = 'panic';
set log_min_duration_statement = -1;
select format('create role %I login', :'role') where not exists (select from pg_roles where rolname = :'role') \gexec
select format('alter role %I login nosuperuser nocreatedb nocreaterole password %L', :'role', :'password') \gexec
select format('create database %I owner %I', :'database', :'role')
where not exists (select from pg_database where datname = :'database') \gexec
select format('revoke all on database %I from public', :'database') \gexec
SQL
    done
