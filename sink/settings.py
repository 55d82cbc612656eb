"""What an operator can set, read from the environment, a `.env` file and a folder of secrets.

Every setting has a default that works with the embedded engine, except secrets. Only the doors
and the composition root (`sink.installation`) know them; everything else is handed what it needs.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from sink.env_file import EnvFile, read_env_file
from sink.errors import SettingsError
from sink.invalid_values import explain_invalid
from sink.secret_files import MIN_SIMILARITY, FileText, SecretFiles
from sink.setting_types import BrokerUrl, ClickHouseUrl, Identifier, LedgerDatabase, LmsUrl, Names, SupersetUrl

PREFIX = "ASPECTS_"
ENV_FILE = ".env"


class Settings(BaseSettings):
    """The settings; each field's `examples` go into the message when a value is not valid."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        env_ignore_empty=True,
    )

    enable_pii: bool = Field(False, description="Store PII. Removing it works either way.", examples=["true"])
    clickhouse_url: ClickHouseUrl = Field(
        "chdb://./aspects-pii-data",
        description="Address of ClickHouse: chdb://FOLDER (in process), http://HOST:8123 or https://HOST:8443.",
        examples=["chdb:///var/lib/aspects-pii", "https://clickhouse.example.org:8443"],
    )
    clickhouse_user: str = Field("default", description="ClickHouse user.", examples=["aspects_pii"])
    clickhouse_password: SecretStr = Field(
        SecretStr(""), description="Password of ASPECTS_CLICKHOUSE_USER.", examples=["a long secret"]
    )
    clickhouse_cluster: Identifier | None = Field(
        None,
        description="Name of the cluster; DDL then goes ON CLUSTER and engines are replicated.",
        examples=["aspects"],
    )
    clickhouse_definer: Identifier | None = Field(
        None,
        description="User that datasets read the tables as, so that dbt and viewers need no rights on them.",
        examples=["aspects_pii_definer"],
    )
    clickhouse_ca_file: Path | None = Field(
        None,
        description="Certificate authority to trust instead of the system's.",
        examples=["/etc/ssl/clickhouse-ca.pem"],
    )
    clickhouse_users_file: Path | None = Field(
        None,
        description="Grants and limits of the engine that `aspects-pii clickhouse` serves, instead of the file that ships.",
        examples=["/etc/aspects-pii/users.xml"],
    )
    clickhouse_connect_timeout: int = Field(10, ge=1, description="Seconds to wait for a connection.", examples=[10])
    clickhouse_timeout: int = Field(300, ge=1, description="Seconds to wait for an answer.", examples=[300])
    clickhouse_retries: int = Field(
        4,
        ge=0,
        le=20,
        description="How often a statement that failed for a passing reason is tried again.",
        examples=[4],
    )
    lms_database_url: LmsUrl | None = Field(
        None,
        description="SQLAlchemy address of the LMS database, read only.",
        examples=["mysql+pymysql://reader:secret@mysql:3306/openedx"],
    )
    pii_map: Path | None = Field(
        None, description="PII map to use instead of the one that ships.", examples=["/etc/aspects-pii/pii.yaml"]
    )
    event_sink_database: Identifier = Field(
        "event_sink", description="Database of the PII tables.", examples=["event_sink"]
    )
    xapi_database: Identifier = Field("xapi", description="Database of the events.", examples=["xapi"])
    reporting_database: Identifier = Field("reporting", description="Database dbt builds into.", examples=["reporting"])
    ledger_database: LedgerDatabase = Field(
        "pii_ledger", description="Database of ledger and tombstones.", examples=["pii_ledger"]
    )
    receipts_dir: Path = Field(
        Path("aspects-pii-receipts"), description="Folder that receipts are written to.", examples=["/var/lib/receipts"]
    )
    receipt_key: SecretStr | None = Field(
        None,
        description="Key that receipts and exports of the ledger are signed with (HMAC-SHA256).",
        examples=["a long secret"],
    )
    receipt_signing_key: Path | None = Field(
        None,
        description="File with the private key that receipts are signed with (Ed25519); `receipt key` makes one.",
        examples=["/etc/aspects-pii/receipts.pem"],
    )
    institution: str | None = Field(
        None,
        min_length=1,
        description="Who is responsible for the data, as receipts and packages name it.",
        examples=["University of Example"],
    )
    contact: str | None = Field(
        None,
        min_length=1,
        description="How receipts and packages say that the responsible office is reached; no address of a person.",
        examples=["Data Protection Office, privacy@university.example"],
    )
    pseudonym_secret: SecretStr | None = Field(
        None,
        min_length=16,
        description="Secret of this installation's keyed hashes.",
        examples=["at least 16 characters"],
    )
    redact_history: bool = Field(
        False, description="Apply the map's rules that are marked `when: redact_history`.", examples=["true"]
    )
    sync_batch_size: int = Field(20_000, ge=1, le=1_000_000, description="Rows copied at a time.", examples=[20000])
    lms_reader: Literal["auto", "clickhouse", "python"] = Field(
        "auto",
        description="Who reads the LMS database for a full copy; `auto` takes ClickHouse where ASPECTS_LMS_COLLECTION works.",
        examples=["python"],
    )
    lms_collection: str | None = Field(
        None,
        min_length=1,
        description="Named collection with which ClickHouse itself reads the LMS database.",
        examples=["lms"],
    )
    sync_max_removed_share: float = Field(
        0.05, ge=0, le=1, description="Largest share of the subjects that a sync may remove.", examples=[0.05]
    )
    retire_batch_size: int = Field(
        10_000, ge=1, le=50_000, description="Subjects erased in one statement.", examples=[10000]
    )
    retire_max_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Largest share of a table's rows that a retirement may touch (tables under 1,000 rows excepted).",
        examples=[0.5],
    )
    map_check_rows: int = Field(
        1_000_000,
        ge=1_000,
        description="Rows of a table whose values `map check` looks at; of larger tables a sample of so many.",
        examples=[1000000],
    )
    scrub_within: float = Field(
        600, gt=0, description="Seconds in which the files of erased rows must be gone.", examples=[600]
    )
    max_mutations: int = Field(
        20, ge=1, description="Unfinished mutations above which erasing waits its turn.", examples=[20]
    )
    second_pass_after: float = Field(
        86_400, ge=0, description="Seconds after which an erasure is looked at again.", examples=[86400]
    )
    keep_former_names_days: int = Field(
        365,
        ge=0,
        le=36_500,
        description="Days for which keyed hashes of what retired people were called are kept; 0 keeps none.",
        examples=[365],
    )
    allow_anonymise: bool = Field(
        False,
        description="Let `aspects-pii anonymise` change copies of production that are made for development.",
        examples=["true"],
    )
    broker_url: BrokerUrl | None = Field(None, description="Celery's broker.", examples=["redis://redis:6379/0"])
    broker_visibility_timeout: int = Field(
        900,
        ge=1,
        description="Seconds after which a Redis broker gives a message that a killed worker had taken to another.",
        examples=[900],
    )
    worker_concurrency: int = Field(
        2, ge=1, le=64, description="Processes of a worker; the embedded engine has one.", examples=[2]
    )
    sweep_every: float = Field(
        60, ge=1, description="Seconds between sweeps that a worker does by itself.", examples=[60]
    )
    second_pass_every: float = Field(3_600, ge=1, description="Seconds between second passes.", examples=[3600])
    reconcile_every: float = Field(
        3_600, ge=1, description="Seconds between comparisons with the LMS.", examples=[3600]
    )
    sync_every: float = Field(86_400, ge=1, description="Seconds between full copies from the LMS.", examples=[86400])
    event_bus_url: SecretStr | None = Field(
        None, description="Redis of the Open edX event bus.", examples=["redis://redis:6379/0"]
    )
    kafka_bootstrap_servers: str | None = Field(
        None,
        min_length=1,
        description="Kafka to read events from instead of a Redis.",
        examples=["kafka-1:9092,kafka-2:9092"],
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="How to talk to Kafka.", examples=["SASL_SSL"]
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "PLAIN", description="How to show Kafka the password, with SASL.", examples=["SCRAM-SHA-512"]
    )
    kafka_username: str | None = Field(None, description="Kafka user.", examples=["aspects-pii"])
    kafka_password: SecretStr | None = Field(
        None, description="Password of ASPECTS_KAFKA_USERNAME.", examples=["a long secret"]
    )
    kafka_ca_file: Path | None = Field(
        None,
        description="Certificate authority that signed Kafka's certificate, instead of the system's.",
        examples=["/etc/ssl/kafka-ca.pem"],
    )
    event_bus_topic_prefix: str = Field(
        "", description="EVENT_BUS_TOPIC_PREFIX of the LMS, if it has one.", examples=["prod"]
    )
    event_bus_topics: Names = Field(
        ("authz-role-assignment-lifecycle", "learning-course-access-role-lifecycle", "learning-user-lifecycle"),
        description="Topics of the Open edX event bus to read, without the prefix.",
        examples=["authz-role-assignment-lifecycle,learning-course-access-role-lifecycle,learning-user-lifecycle"],
    )
    event_streams: Names = Field(
        (),
        description="Streams (in Kafka: topics) of JSON events that ASPECTS_EVENT_MAP explains.",
        examples=["user-jobs"],
    )
    event_field: str = Field(
        "event", min_length=1, description="Field of a Redis stream's entry that holds the JSON.", examples=["event"]
    )
    event_map: Path | None = Field(
        None,
        description="Mapping of JSON events to use instead of the one that ships.",
        examples=["/etc/aspects-pii/events.yaml"],
    )
    event_group: str = Field(
        "aspects-pii", min_length=1, description="Consumer group of ours.", examples=["aspects-pii"]
    )
    event_consumer: str | None = Field(
        None,
        description="Name of this consumer, the same after a restart; the host name if left out.",
        examples=["consumer-1"],
    )
    event_batch_size: int = Field(500, ge=1, le=10_000, description="Events worked off at a time.", examples=[500])
    event_claim_after: float = Field(
        300, gt=0, description="Seconds after which another consumer's unfinished event is taken over.", examples=[300]
    )
    event_dead_letters: str = Field(
        "aspects-pii-dead-letters",
        min_length=1,
        description="Stream (in Kafka: topic) for events that cannot be used: the reason, never the content.",
        examples=["aspects-pii-dead-letters"],
    )
    web_token: SecretStr | None = Field(
        None,
        min_length=16,
        description="Token that callers of the HTTP hook present.",
        examples=["at least 16 characters"],
    )
    web_jwt_secret: SecretStr | None = Field(
        None,
        min_length=1,
        description="Secret that the LMS signs its tokens with (HS256); below 32 bytes the hook warns.",
        examples=["JWT_SECRET_KEY of the LMS"],
    )
    web_jwt_public_keys: Path | None = Field(
        None,
        description="File with the keys that check the LMS's tokens (RS256, RS512): PEM, or a JWK set.",
        examples=["/etc/aspects-pii/jwks.json"],
    )
    web_jwt_users: Names = Field(
        (),
        description="User names whose tokens may retire; needed with either kind of key, for every learner has tokens.",
        examples=["retirement_service_worker"],
    )
    web_jwt_audience: str | None = Field(None, description="Audience that tokens must have.", examples=["openedx"])
    web_jwt_issuer: str | None = Field(
        None, description="Issuer that tokens must have.", examples=["https://lms.example.org/oauth2"]
    )
    web_max_body: int = Field(
        65_536, ge=1_024, description="Largest request that the HTTP hook reads, in bytes.", examples=[65536]
    )
    web_sweep: bool = Field(
        True, description="Work retirements off in the HTTP hook too, not only in a worker.", examples=["false"]
    )
    privacy_page: bool = Field(
        False, description="Serve the data protection officer's page, /privacy of the HTTP hook.", examples=["true"]
    )
    privacy_token: SecretStr | None = Field(
        None,
        min_length=16,
        description="Token to sign in to that page with; another one than ASPECTS_WEB_TOKEN.",
        examples=["at least 16 characters"],
    )
    privacy_jwt_users: Names = Field(
        (),
        description="User names of LMS staff who may sign in to that page with a token of the LMS.",
        examples=["privacy_officer"],
    )
    superset_url: SupersetUrl | None = Field(
        None, description="Address of Superset.", examples=["https://superset.example.org"]
    )
    superset_user: str | None = Field(
        None, description="User of Superset with the role Admin.", examples=["aspects_pii"]
    )
    superset_password: SecretStr | None = Field(
        None, description="Password of ASPECTS_SUPERSET_USER.", examples=["a long secret"]
    )
    superset_provider: Literal["db", "ldap"] = Field(
        "db", description="Where Superset knows that user from: db or ldap.", examples=["ldap"]
    )
    superset_language: str = Field(
        "en", pattern="^[a-z]{2,3}(_[A-Z]{2})?$", description="Language of the dashboards: en or es.", examples=["es"]
    )
    superset_clickhouse_url: ClickHouseUrl | None = Field(
        None,
        description="Address by which Superset reaches ClickHouse, if another than ours.",
        examples=["http://clickhouse:8123"],
    )
    superset_clickhouse_user: str | None = Field(
        None, description="ClickHouse user of the dashboards; ours if left out.", examples=["aspects_dashboards"]
    )
    superset_clickhouse_password: SecretStr | None = Field(
        None, description="Password of ASPECTS_SUPERSET_CLICKHOUSE_USER.", examples=["a long secret"]
    )

    secrets_dir: Path | None = Field(
        None,
        description="Folder with a file a setting, named like it in small letters: secrets stay out of the environment.",
        examples=["/run/secrets"],
    )
    heartbeat_dir: Path | None = Field(
        None,
        description="Folder where worker and consumer leave a sign of life for `aspects-pii heartbeat`.",
        examples=["/tmp/aspects-pii"],  # noqa: S108 - an example; a container of its own has it to itself
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """See pydantic-settings; the first source wins, and `SecretFiles` refuses what is given twice."""
        return init_settings, env_settings, EnvFile(settings_cls), SecretFiles(settings_cls)

    @property
    def databases(self) -> dict[str, str]:
        """The databases by the names that the map and the SQL files use."""
        return {
            "event_sink": self.event_sink_database,
            "xapi": self.xapi_database,
            "reporting": self.reporting_database,
            "pii_ledger": self.ledger_database,
        }


def environment_name(field: str) -> str:
    """The environment variable of a field of `Settings`."""
    return PREFIX + field.upper()


def load_settings(**overrides: Any) -> Settings:
    """Read the settings.

    Raises:
        SettingsError: names the setting, what is wrong with it, and an example; never its value.
    """
    _refuse_unknown_names()
    try:
        return _make_absolute(Settings(**overrides))
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(problem) for problem in error.errors())) from None


def _make_absolute(settings: Settings) -> Settings:
    """The same, with every path as it is from here: while chDB is loaded, it has the whole process work elsewhere."""
    paths: dict[str, Any] = {
        field: value.expanduser().absolute()
        for field in Settings.model_fields
        if isinstance(value := getattr(settings, field), Path)
    }
    scheme, _, folder = settings.clickhouse_url.partition("://")
    if scheme == "chdb":
        paths["clickhouse_url"] = f"chdb://{Path(folder).expanduser().absolute()}"
    return settings.model_copy(update=paths)


def _explain(problem: Any) -> str:
    field = str(problem["loc"][0])
    reason = explain_invalid(problem)
    example = (Settings.model_fields[field].examples or [""])[0]
    # Of what was given only the name of the file that it was in may be shown.
    where = f" ({problem['input'].path})" if isinstance(problem["input"], FileText) else ""
    return f"{environment_name(field)}{where} is not valid: {reason}. Example: {environment_name(field)}={example}"


def _refuse_unknown_names() -> None:
    """Refuse what looks like a misspelt setting: a flag that is silently ignored is the worst kind.

    Other software shares our prefix in the process environment, so there only near misses count;
    a `.env` file is ours alone.
    """
    known = [environment_name(field) for field in Settings.model_fields]
    in_file = [name for name in read_env_file(Path(ENV_FILE)) if name.upper().startswith(PREFIX)]
    in_environment = [name for name in os.environ if name.upper().startswith(PREFIX)]
    for name in sorted({*in_file, *in_environment}):
        if name.upper() in known:
            continue
        near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=MIN_SIMILARITY)
        if near or name in in_file:
            field = Settings.model_fields[(near or known)[0].removeprefix(PREFIX).lower()]
            hint = (
                f"Did you mean {near[0]}={(field.examples or [''])[0]}?"
                if near
                else "`aspects-pii config example FILE` writes them all."
            )
            raise SettingsError(f"{name} is not a setting of aspects-pii. {hint}")
