{#- A user that may read what is copied and nothing else: of auth_user not the password. -#}
echo "The reader of aspects-pii..."
mysql --user={{ MYSQL_ROOT_USERNAME }} --password="{{ MYSQL_ROOT_PASSWORD }}" --host="{{ MYSQL_HOST }}" --port={{ MYSQL_PORT }} <<'EOF'
CREATE USER IF NOT EXISTS '{{ ASPECTS_PII_MYSQL_USERNAME }}'@'%' IDENTIFIED BY '{{ ASPECTS_PII_MYSQL_PASSWORD }}';
ALTER USER '{{ ASPECTS_PII_MYSQL_USERNAME }}'@'%' IDENTIFIED BY '{{ ASPECTS_PII_MYSQL_PASSWORD }}';
GRANT SELECT (id, username, email, is_active, is_staff, is_superuser) ON `{{ OPENEDX_MYSQL_DATABASE }}`.auth_user TO '{{ ASPECTS_PII_MYSQL_USERNAME }}'@'%';
{%- for name in (
    "auth_userprofile",
    "external_user_ids_externalid",
    "external_user_ids_externalidtype",
    "student_courseaccessrole",
    "user_api_retirementstate",
    "user_api_userretirementrequest",
    "user_api_userretirementstatus",
) %}
GRANT SELECT ON `{{ OPENEDX_MYSQL_DATABASE }}`.{{ name }} TO '{{ ASPECTS_PII_MYSQL_USERNAME }}'@'%';
{%- endfor %}
{#- Of openedx-authz's rules, which releases before Verawood have none of: a grant on a table that is not there is an error. #}
SET @statement = (
    SELECT IF(
        COUNT(*) = 0,
        'DO 0',
        'GRANT SELECT (ptype, v0, v1, v2) ON `{{ OPENEDX_MYSQL_DATABASE }}`.casbin_rule TO ''{{ ASPECTS_PII_MYSQL_USERNAME }}''@''%'''
    )
    FROM information_schema.tables WHERE table_schema = '{{ OPENEDX_MYSQL_DATABASE }}' AND table_name = 'casbin_rule'
);
PREPARE rules FROM @statement;
EXECUTE rules;
EOF
