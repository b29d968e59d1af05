"""Builders of the command line: groups that import a command when it is asked for, options from settings classes."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import typer
from typer.core import TyperGroup

from r1reward_verl.settings import Settings


def command_group(text: str, modules: Mapping[str, str]) -> typer.Typer:
    """Return a group of commands.

    Args:
        text: what its help says.
        modules: name of a command -> module that holds it as `app`.
    """

    class Group(TyperGroup):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            self.commands = dict.fromkeys(modules)  # type: ignore[assignment]  # typer suggests from these names

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            if not args and not ctx.resilient_parsing:
                typer.echo(ctx.get_help())
                raise typer.Exit(2)
            return super().parse_args(ctx, args)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            if cmd_name not in modules:
                return None
            app = importlib.import_module(modules[cmd_name]).app
            app._add_completion = False  # only `r1reward` itself offers to install it
            command = typer.main.get_command(app)
            command.name = cmd_name
            return command

    group = typer.Typer(
        cls=Group,
        help=text,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    group.callback()(lambda: None)
    return group


def with_settings(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of the settings classes among its parameters.

    A parameter whose type is a subclass of `Settings` becomes one option for each field of the class that is described
    by `setting`. The command gets the object that is made of their values; a value outside its bounds ends in a
    ValueError that names the option.
    """
    hints = get_type_hints(function, include_extras=True)
    signature = inspect.signature(function)
    classes = {name: hint for name, hint in hints.items() if inspect.isclass(hint) and issubclass(hint, Settings)}

    @wraps(function)
    def command(*args: Any, **kwargs: Any) -> Any:
        for name, settings in classes.items():
            kwargs[name] = settings(**{field.name: kwargs.pop(field.name) for field in _options(settings)})
        return function(*args, **kwargs)

    parameters = [
        parameter.replace(annotation=hints[name], kind=parameter.KEYWORD_ONLY)
        for name, parameter in signature.parameters.items()
        if name not in classes
    ]
    for settings in classes.values():
        parameters += [_parameter(field, settings) for field in _options(settings)]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def _options(settings: type[Settings]) -> list[msgspec.structs.FieldInfo]:
    hints = get_type_hints(settings, include_extras=True)
    return [field for field in msgspec.structs.fields(settings) if get_origin(hints[field.name]) is Annotated]


def _parameter(field: msgspec.structs.FieldInfo, settings: type[Settings]) -> inspect.Parameter:
    hint, meta = get_args(get_type_hints(settings, include_extras=True)[field.name])
    extra = meta.extra or {}
    default = field.default
    if default is msgspec.NODEFAULT:
        default = inspect.Parameter.empty if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    name = extra.get("flag") or "--" + field.name.replace("_", "-")
    if default is True and "/" not in name:
        name = f"{name}/--no-{name[2:]}"
    parser = _as_typer_parser(extra["parser"]) if extra.get("parser") else None
    option = typer.Option(name, help=meta.description, metavar=extra.get("metavar"), parser=parser)
    if parser is not None:
        hint = list[Any] if get_origin(hint) is list else Any  # typer takes a type or a parser
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[hint, option]
    )


def _as_typer_parser(parser: Callable[[str], Any]) -> Callable[[Any], Any]:
    def parse(text: Any) -> Any:
        if not isinstance(text, str):
            return text  # a default
        try:
            return parser(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return parse
