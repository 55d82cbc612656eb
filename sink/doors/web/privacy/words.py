"""What the page for the data protection officer says, in English and Spanish.

What the services say (reasons, receipts, the record of processing) is English, and marked so.

.. no_pii: texts of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sink.rights.words import Language


@dataclass(frozen=True)
class Words:
    """The texts of one language; what stands in braces is filled in."""

    site: str
    skip: str
    menu: str
    sign_in: str
    sign_out: str
    token: str
    token_hint: str
    signed_out: str
    no_cookie: str
    error: str
    requests: str
    receipts: str
    find: str
    export: str
    retire: str
    record: str
    user_id: str
    user_id_hint: str
    no_id: str
    state: str
    since: str
    requested: str
    requested_by: str
    reason: str
    nobody: str
    yes: str
    no: str
    open_heading: str
    open_none: str
    open_some: str
    look_up: str
    look_up_hint: str
    not_asked_for: str
    closed_heading: str
    closed_none: str
    closed_some: str
    packages_heading: str
    packages_none: str
    packages_some: str
    when: str
    of_whom: str
    by_whom: str
    encrypted: str
    request_of: str
    number: str
    history: str
    what: str
    worked_off: str
    again: str
    see_receipt: str
    receipt_of: str
    receipts_none: str
    receipts_some: str
    newer: str
    older: str
    print_hint: str
    save_receipt: str
    check_heading: str
    check_hint: str
    check: str
    pasted: str
    genuine: str
    not_genuine: str
    texts: str
    texts_hint: str
    prefix: str
    lms: str
    show: str
    find_hint: str
    search: str
    nothing_given: str
    prefix_short: str
    too_many: str
    found_heading: str
    found_nobody: str
    found_some: str
    line: str
    where: str
    retired: str
    value: str
    not_called: str
    export_hint: str
    language: str
    with_events: str
    with_mentions: str
    recipient: str
    recipient_hint: str
    make_package: str
    export_wait: str
    retire_hint: str
    preview: str
    preview_of: str
    preview_none: str
    preview_some: str
    table: str
    action: str
    rows: str
    contested: str
    confirm_hint: str
    confirm: str
    confirm_wrong: str
    retire_now: str
    back: str
    record_hint: str
    responsible: str
    safeguards: str
    save_as: str
    not_found: str
    problem: str
    done: Mapping[str, str]
    """What is done to rows, by the action of a step."""
    states: Mapping[str, str]
    actions: Mapping[str, str]
    problems: Mapping[str, str]
    """What is said instead of the English message, by the word of a problem."""
    languages: Mapping[str, str]
    thousands: str
    """What stands between groups of digits."""

    def count(self, number: int) -> str:
        """A number of things."""
        return f"{number:,}".replace(",", self.thousands)


_ENGLISH = Words(
    site="Data protection",
    skip="Skip to the content",
    menu="Pages",
    sign_in="Sign in",
    sign_out="Sign out",
    token="Token",  # noqa: S106
    token_hint="The token of this page, or a token of the LMS that names you as staff.",  # noqa: S106
    signed_out="You are not signed in, or have not been here for a while. Nothing was done. Please sign in.",
    no_cookie=(
        "Your browser did not keep the cookie of this page. It takes it over HTTPS only, or where the server is on the same host."
    ),
    error="Error",
    requests="Requests",
    receipts="Receipts",
    find="Find",
    export="Package",
    retire="Retire",
    record="Record of processing",
    user_id="Id of the user",
    user_id_hint="The number that the LMS knows the user by. “Find” tells it.",
    no_id="This is no id of a user.",
    state="State",
    since="Since",
    requested="Asked for",
    requested_by="Asked for by",
    reason="Reason",
    nobody="the system",
    yes="yes",
    no="no",
    open_heading="Open retirements",
    open_none="No retirement is open.",
    open_some="Open: {number}. The oldest stand first.",
    look_up="Look up",
    look_up_hint="Shows the retirement of one user.",
    not_asked_for="No retirement of this user was asked for.",
    closed_heading="Ended retirements",
    closed_none="No retirement has ended yet.",
    closed_some="The latest {number}.",
    packages_heading="Packages that were made",
    packages_none="No package was made yet.",
    packages_some="The latest {number}.",
    when="When",
    of_whom="Of whom",
    by_whom="By whom",
    encrypted="Encrypted",
    request_of="Retirement of user {subject}",
    number="Number",
    history="What the ledger says",
    what="What",
    worked_off="The retirement is on record. Erasing takes from seconds to minutes.",
    again="Look again",
    see_receipt="Receipt",
    receipt_of="Receipt of user {subject}",
    receipts_none="There is no receipt yet.",
    receipts_some="Page {number}. The latest stand first.",
    newer="Newer",
    older="Older",
    print_hint="To print it, or save it as PDF, use the print command of your browser.",
    save_receipt="Save the receipt as a file",
    check_heading="Is a receipt genuine?",
    check_hint="Open the file of the receipt in an editor, and paste all of it here.",
    check="Check",
    pasted="Text of the receipt",
    genuine="This receipt is genuine.",
    not_genuine="This receipt is not shown to be genuine.",
    texts="E-mail addresses, user names, names or anonymous ids",
    texts_hint="One a line. Case and accents make no difference.",
    prefix="Also what begins so",
    lms="Search the LMS too",
    show="Show the values that are found",
    find_hint="That you search goes on record, with how many were found. What you search for does not.",
    search="Search",
    nothing_given="Give something to search for.",
    prefix_short="Line {line}: a beginning has {number} characters or more.",
    too_many="Give {number} lines at most.",
    found_heading="What was found",
    found_nobody="Nobody is called so.",
    found_some="Users found: {number}.",
    line="Line",
    where="Where",
    retired="Retirement",
    value="Value",
    not_called="Nobody is called what stands in these lines: {lines}.",
    export_hint="A package holds all that this store has of one user, to hand over. That you make one goes on record.",
    language="Language of the page in it",
    with_events="With learning events",
    with_mentions="With texts elsewhere that name the user. Read them before you hand the package over",
    recipient="Encrypt to this public key of age",
    recipient_hint="Begins with age1. Leave it empty for a package that is not encrypted.",
    make_package="Make and download",
    export_wait=(
        "This takes seconds, and minutes where there are very many events. Stay on this page until the file comes."
    ),
    retire_hint=(
        "Erases the personal data of one user for good, and keeps it from coming back. Nothing is done "
        "before you confirm."
    ),
    preview="Show what would be done",
    preview_of="Retire user {subject}",
    preview_none="No row of this user is here. The user is kept from being copied.",
    preview_some="Rows of this user that would be erased on {place}:",
    table="Table",
    action="What is done",
    rows="Rows",
    contested=(
        "Some rows are under a name that somebody else has too. The retirement would stay open until that is decided."
    ),
    confirm_hint="This cannot be undone. To confirm, type the id of the user: {subject}",
    confirm="Id, once more",
    confirm_wrong="What you typed is not the id of this user. Nothing was done.",
    retire_now="Retire for good",
    back="Back",
    record_hint="What is held, of whom, why, for how long, and who sees it, as the PII map says it (GDPR article 30).",
    responsible="Responsible",
    safeguards="Safeguards for all tables",
    save_as="Save as",
    not_found="There is no such page.",
    problem="That did not work",
    done={
        "delete": "rows are deleted",
        "redact": "values are erased, rows stay",
        "redact, delete": "values are erased, or rows are deleted",
    },
    states={
        "requested": "asked for",
        "hidden": "hidden from all queries",
        "erased": "erased and proved",
        "failed": "failed, and is tried again",
        "reopened": "open again",
        "withdrawn": "withdrawn",
    },
    actions={
        "requested": "asked for",
        "found": "rows were counted",
        "hidden": "hidden from all queries",
        "erased": "erased and proved",
        "failed": "an attempt failed",
        "reopened": "opened again",
        "withdrawn": "withdrawn",
    },
    problems={
        "token": "This token is not valid, or not valid any more.",
        "not_named": (
            "This account may not use the page. ASPECTS_PRIVACY_JWT_USERS has to name it, and it has to be staff "
            "of the LMS."
        ),
        "no_user_id": (
            "This token does not say the id of the account, so the ledger could not say who you are. Ask for one "
            "with the scope user_id."
        ),
        "foreign": "This was sent by another page, or by one of before you signed in. Nothing was done.",
        "no_form": "This is no form of this page. Nothing was done.",
        "failed": "The request failed. The log of the server says more.",
    },
    languages={"en": "English", "es": "Spanish"},
    thousands=",",
)
_SPANISH = Words(
    site="Protección de datos",
    skip="Ir al contenido",
    menu="Páginas",
    sign_in="Entrar",
    sign_out="Salir",
    token="Clave de acceso",  # noqa: S106
    token_hint="La clave de esta página, o un token del LMS que le identifique como personal.",  # noqa: S106
    signed_out="No ha entrado, o lleva un rato sin usar la página. No se ha hecho nada. Entre de nuevo.",
    no_cookie=(
        "Su navegador no ha guardado la cookie de esta página. Solo la acepta por HTTPS, o con el servidor en el mismo equipo."
    ),
    error="Error",
    requests="Solicitudes",
    receipts="Justificantes",
    find="Buscar",
    export="Paquete",
    retire="Dar de baja",
    record="Registro de actividades de tratamiento",
    user_id="Identificador del usuario",
    user_id_hint="El número con el que el LMS conoce al usuario. «Buscar» lo indica.",
    no_id="Esto no es un identificador de usuario.",
    state="Estado",
    since="Desde",
    requested="Solicitada",
    requested_by="Solicitada por",
    reason="Motivo",
    nobody="el sistema",
    yes="sí",
    no="no",
    open_heading="Bajas abiertas",
    open_none="No hay ninguna baja abierta.",
    open_some="Abiertas: {number}. Las más antiguas van primero.",
    look_up="Consultar",
    look_up_hint="Muestra la baja de un usuario.",
    not_asked_for="No se ha solicitado ninguna baja de este usuario.",
    closed_heading="Bajas terminadas",
    closed_none="Todavía no ha terminado ninguna baja.",
    closed_some="Las últimas {number}.",
    packages_heading="Paquetes que se han hecho",
    packages_none="Todavía no se ha hecho ningún paquete.",
    packages_some="Los últimos {number}.",
    when="Cuándo",
    of_whom="De quién",
    by_whom="Por quién",
    encrypted="Cifrado",
    request_of="Baja del usuario {subject}",
    number="Número",
    history="Qué dice el registro",
    what="Qué",
    worked_off="La baja está registrada. El borrado tarda entre segundos y minutos.",
    again="Mirar otra vez",
    see_receipt="Justificante",
    receipt_of="Justificante del usuario {subject}",
    receipts_none="Todavía no hay ningún justificante.",
    receipts_some="Página {number}. Los últimos van primero.",
    newer="Más recientes",
    older="Más antiguos",
    print_hint="Para imprimirlo o guardarlo como PDF, use la orden de imprimir de su navegador.",
    save_receipt="Guardar el justificante como archivo",
    check_heading="¿Es auténtico un justificante?",
    check_hint="Abra el archivo del justificante en un editor y pegue aquí todo su texto.",
    check="Comprobar",
    pasted="Texto del justificante",
    genuine="Este justificante es auténtico.",
    not_genuine="No está probado que este justificante sea auténtico.",
    texts="Correos electrónicos, nombres de usuario, nombres o identificadores anónimos",
    texts_hint="Uno por línea. Mayúsculas y acentos dan igual.",
    prefix="También lo que empieza así",
    lms="Buscar también en el LMS",
    show="Mostrar los valores encontrados",
    find_hint="Queda registrado que usted busca y cuántos usuarios se encuentran. Lo que busca, no.",
    search="Iniciar la búsqueda",
    nothing_given="Indique qué quiere buscar.",
    prefix_short="Línea {line}: un comienzo tiene {number} caracteres o más.",
    too_many="Indique {number} líneas como máximo.",
    found_heading="Qué se ha encontrado",
    found_nobody="Nadie se llama así.",
    found_some="Usuarios encontrados: {number}.",
    line="Línea",
    where="Dónde",
    retired="Estado de la baja",
    value="Valor",
    not_called="Nadie se llama como dicen estas líneas: {lines}.",
    export_hint=(
        "Un paquete contiene todo lo que este almacén guarda de un usuario, para entregarlo. Queda "
        "registrado que usted lo hace."
    ),
    language="Idioma de la página que contiene",
    with_events="Con eventos de aprendizaje",
    with_mentions="Con textos de otros lugares que nombran al usuario. Léalos antes de entregar el paquete",
    recipient="Cifrar para esta clave pública de age",
    recipient_hint="Empieza por age1. Déjelo vacío para un paquete sin cifrar.",
    make_package="Hacer y descargar",
    export_wait=(
        "Tarda segundos, y minutos si hay muchísimos eventos. Quédese en esta página hasta que llegue el archivo."
    ),
    retire_hint=(
        "Borra para siempre los datos personales de un usuario e impide que vuelvan. No se hace nada antes "
        "de que usted lo confirme."
    ),
    preview="Mostrar qué se haría",
    preview_of="Dar de baja al usuario {subject}",
    preview_none="Aquí no hay ninguna fila de este usuario. Se impide que se copie.",
    preview_some="Filas de este usuario que se borrarían en {place}:",
    table="Tabla",
    action="Qué se hace",
    rows="Filas",
    contested=(
        "Algunas filas están bajo un nombre que también tiene otra persona. La baja quedaría abierta hasta "
        "que eso se decida."
    ),
    confirm_hint="No se puede deshacer. Para confirmarlo, escriba el identificador del usuario: {subject}",
    confirm="Identificador, otra vez",
    confirm_wrong="Lo que ha escrito no es el identificador de este usuario. No se ha hecho nada.",
    retire_now="Dar de baja para siempre",
    back="Volver",
    record_hint=(
        "Qué se guarda, de quién, por qué, cuánto tiempo y quién lo ve, según el mapa de datos personales "
        "(artículo 30 del RGPD)."
    ),
    responsible="Responsable",
    safeguards="Garantías para todas las tablas",
    save_as="Guardar como",
    not_found="Esa página no existe.",
    problem="No ha funcionado",
    done={
        "delete": "se borran las filas",
        "redact": "se borran los valores y quedan las filas",
        "redact, delete": "se borran los valores o las filas",
    },
    states={
        "requested": "solicitada",
        "hidden": "oculta para toda consulta",
        "erased": "borrada y comprobada",
        "failed": "ha fallado y se intenta otra vez",
        "reopened": "abierta de nuevo",
        "withdrawn": "retirada",
    },
    actions={
        "requested": "solicitada",
        "found": "se contaron las filas",
        "hidden": "oculta para toda consulta",
        "erased": "borrada y comprobada",
        "failed": "falló un intento",
        "reopened": "abierta de nuevo",
        "withdrawn": "retirada",
    },
    problems={
        "token": "Esta clave no es válida, o ha dejado de serlo.",
        "not_named": (
            "Esta cuenta no puede usar la página. ASPECTS_PRIVACY_JWT_USERS tiene que nombrarla, y tiene que ser "
            "personal del LMS."
        ),
        "no_user_id": (
            "Este token no dice el identificador de la cuenta, y el registro no podría decir quién es usted. "
            "Pida uno con el ámbito user_id."
        ),
        "foreign": "Esto lo ha enviado otra página, o una de antes de que usted entrara. No se ha hecho nada.",
        "no_form": "Esto no es un formulario de esta página. No se ha hecho nada.",
        "failed": "La solicitud ha fallado. El registro del servidor dice más.",
    },
    languages={"en": "Inglés", "es": "Español"},
    # A comma would be read as the beginning of a fraction.
    thousands="\u202f",
)
WORDS = {Language.ENGLISH: _ENGLISH, Language.SPANISH: _SPANISH}


def choose_language(accepted: str) -> Language:
    """The language that a browser asks for (`Accept-Language`) as far as there is one; English otherwise."""
    best, weight = Language.ENGLISH, 0.0
    for part in accepted.split(","):
        tag, _, parameters = part.partition(";")
        name = tag.strip().lower().partition("-")[0]
        try:
            given = float(parameters.strip().removeprefix("q=") or 1)
        except ValueError:
            continue
        if name in set(Language) and given > weight:
            best, weight = Language(name), given
    return best
