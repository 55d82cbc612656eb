"""What the page of a subject access package says, in the languages that it can be had in.

.. no_pii: texts of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Language(StrEnum):
    """Languages of the page."""

    ENGLISH = "en"
    SPANISH = "es"


@dataclass(frozen=True)
class Words:
    """The texts of one language; what stands in braces is filled in."""

    title: str
    title_of: str
    skip: str
    contents: str
    introduction: str
    about: str
    user_id: str
    collected: str
    institution: str
    contact: str
    installation: str
    overview: str
    overview_caption: str
    formats: str
    table: str
    kind: str
    rows: str
    files: str
    column: str
    value: str
    record: str
    records: str
    found_by: str
    found_mentions: str
    more: str
    shortened: str
    shared: str
    review: str
    no_value: str
    missing: str
    missing_always: str
    missing_events: str
    missing_mentions: str
    missing_absent: str
    missing_of_others: str
    missing_perhaps: str
    missing_unsearched: str
    missing_lms: str
    footer: str
    kinds: Mapping[str, str]
    types: Mapping[str, str]
    processing: Mapping[str, str]
    """What the map may say of a target; what has no word here is shown as the map calls it."""
    thousands: str
    """What stands between groups of digits."""

    def count(self, number: int) -> str:
        """A number of things."""
        return f"{number:,}".replace(",", self.thousands)


ENGLISH = Words(
    title="Your personal data",
    title_of="Your personal data: {institution}",
    skip="Skip to the content",
    contents="Contents",
    introduction=(
        "This page shows the personal data about you that the learning analytics store (Aspects) holds. The "
        "same data stands in files beside this page, which programs can read."
    ),
    about="About this package",
    user_id="Your user id",
    collected="Collected",
    institution="Responsible",
    contact="Contact",
    installation="Installation",
    overview="What is in it",
    overview_caption="Tables with data about you",
    formats=(
        "Each table comes in two files with the same rows. JSON Lines (.jsonl) is exact. CSV (.csv) opens in "
        "a spreadsheet; an apostrophe there keeps a text from being taken for a formula. manifest.json lists "
        "all files with their checksums."
    ),
    table="Table",
    kind="Kind",
    rows="Rows",
    files="Files",
    column="Field",
    value="Value",
    record="{table}, record {number}",
    records="{table}: records",
    found_by="Rows were found by {columns}.",
    found_mentions="These texts name you and stand outside of your own rows.",
    more="{rows} more rows are in {file}.",
    shortened="Long values are shortened here, which an ellipsis (…) shows. They are whole in the files.",
    shared=(
        "{rows} more rows stand under a name that somebody else has too. Whose they are is not known, so they "
        "are not in this package."
    ),
    review="Others may have written them.",
    no_value="(no value)",
    missing="What is not in it",
    missing_always=(
        "Data outside of this store: the learning platform itself, backups, and logs. Ask for these where you "
        "use the platform."
    ),
    missing_events="Learning events: they were left out on request.",
    missing_mentions="Texts elsewhere that name you: nobody looked for them.",
    missing_absent="Tables that this installation does not have: {tables}.",
    missing_of_others="{place}: {rows} rows about other people name you. They are those people's data.",
    missing_perhaps="{place}: {rows} rows hold a word that you are called, too, and that may mean something else.",
    missing_unsearched="{table} could not be searched for texts that name you.",
    missing_lms="The learning platform was not asked for other names of yours.",
    footer="Made by {software}.",
    kinds={"rows": "rows about you", "events": "learning events", "mentions": "texts that name you"},
    types={
        "id": "identifier",
        "name": "name",
        "username": "user name",
        "password": "password",
        "location": "place",
        "phone_number": "telephone number",
        "email_address": "e-mail address",
        "birth_date": "date of birth",
        "ip": "network address",
        "external_service": "external service",
        "biography": "biography",
        "gender": "gender",
        "sex": "sex",
        "image": "picture",
        "video": "video",
        "other": "other",
    },
    processing={
        "description": "Description",
        "purpose": "Purpose",
        "purposes": "Purposes",
        "legal_basis": "Legal basis",
        "recipients": "Recipients",
        "retention": "How long it is kept",
        "days": "days",
        "column": "counted from",
        "redact": "then emptied",
        "safeguards": "Safeguards",
        "source": "Source",
    },
    thousands=",",
)
SPANISH = Words(
    title="Sus datos personales",
    title_of="Sus datos personales: {institution}",
    skip="Ir al contenido",
    contents="Índice",
    introduction=(
        "Esta página muestra los datos personales sobre usted que guarda el almacén de analítica del "
        "aprendizaje (Aspects). Los mismos datos están en archivos junto a esta página, que los programas "
        "pueden leer."
    ),
    about="Sobre este paquete",
    user_id="Su identificador de usuario",
    collected="Recopilado",
    institution="Responsable",
    contact="Contacto",
    installation="Instalación",
    overview="Qué contiene",
    overview_caption="Tablas con datos sobre usted",
    formats=(
        "Cada tabla viene en dos archivos con las mismas filas. JSON Lines (.jsonl) es exacto. CSV (.csv) se "
        "abre en una hoja de cálculo; allí un apóstrofo evita que un texto se tome por una fórmula. "
        "manifest.json enumera todos los archivos con sus sumas de comprobación."
    ),
    table="Tabla",
    kind="Clase",
    rows="Filas",
    files="Archivos",
    column="Campo",
    value="Valor",
    record="{table}, registro {number}",
    records="{table}: registros",
    found_by="Las filas se encontraron por {columns}.",
    found_mentions="Estos textos le nombran y están fuera de sus propias filas.",
    more="Hay {rows} filas más en {file}.",
    shortened=(
        "Los valores largos aparecen aquí abreviados, lo que indican unos puntos suspensivos (…). En los "
        "archivos están completos."
    ),
    shared=(
        "Hay {rows} filas más bajo un nombre que también tiene otra persona. No se sabe de quién son, por lo "
        "que no están en este paquete."
    ),
    review="Puede que los hayan escrito otras personas.",
    no_value="(sin valor)",
    missing="Qué no contiene",
    missing_always=(
        "Datos fuera de este almacén: la propia plataforma de aprendizaje, las copias de seguridad y los "
        "registros. Pídalos donde usa la plataforma."
    ),
    missing_events="Eventos de aprendizaje: se omitieron a petición.",
    missing_mentions="Textos de otros lugares que le nombran: no se buscaron.",
    missing_absent="Tablas que esta instalación no tiene: {tables}.",
    missing_of_others="{place}: {rows} filas sobre otras personas le nombran. Son datos de esas personas.",
    missing_perhaps=(
        "{place}: {rows} filas tienen una palabra que también es un nombre suyo y que puede significar otra cosa."
    ),
    missing_unsearched="No se pudo buscar en {table} textos que le nombren.",
    missing_lms="No se preguntó a la plataforma de aprendizaje por otros nombres suyos.",
    footer="Hecho por {software}.",
    kinds={"rows": "filas sobre usted", "events": "eventos de aprendizaje", "mentions": "textos que le nombran"},
    types={
        "id": "identificador",
        "name": "nombre",
        "username": "nombre de usuario",
        "password": "contraseña",
        "location": "lugar",
        "phone_number": "número de teléfono",
        "email_address": "correo electrónico",
        "birth_date": "fecha de nacimiento",
        "ip": "dirección de red",
        "external_service": "servicio externo",
        "biography": "biografía",
        "gender": "género",
        "sex": "sexo",
        "image": "imagen",
        "video": "vídeo",
        "other": "otros",
    },
    processing={
        "description": "Descripción",
        "purpose": "Finalidad",
        "purposes": "Finalidades",
        "legal_basis": "Base jurídica",
        "recipients": "Destinatarios",
        "retention": "Cuánto tiempo se conservan",
        "days": "días",
        "column": "contados desde",
        "redact": "después se vacían",
        "safeguards": "Garantías",
        "source": "Origen",
    },
    # A comma would be read as the beginning of a fraction.
    thousands="\u202f",
)
WORDS = {Language.ENGLISH: ENGLISH, Language.SPANISH: SPANISH}
