"""How Sphinx shows the staged pages (see build.py): offline, nothing executed, mathematics as MathML, names in
backticks as links."""

from collections import defaultdict
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.pycode import ModuleAnalyzer
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

project = html_title = "tgfr"
extensions = ["myst_nb", "sphinx.ext.viewcode"]
exclude_patterns = [".sphinx"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_dmath_allow_digits = myst_dmath_allow_space = False
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_code_prompt_hide = "Source"
nb_render_markdown_format = "myst"  # tables that cells make are tables
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]
smartquotes = False
add_module_names = viewcode_follow_imported_members = False
pygments_style, pygments_dark_style = "friendly", "github-dark"
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["tgfr.css"]
html_favicon = "static/tgfr.svg"
html_math_renderer = "mathml"
html_copy_source = html_show_sphinx = html_show_copyright = False


def mathml(self, node):
    "Mathematics that browsers show themselves."
    block = isinstance(node, nodes.math_block)
    formula = convert(node.astext(), display="block" if block else "inline")
    self.body.append(f'<div class="math">{formula}</div>' if block else formula)
    raise nodes.SkipNode


def source_of(app, module):
    "The text of a module for viewcode, which would import it."
    path = Path(__file__).parent.parent / (module.replace(".", "/") + ".py")
    analyzer = ModuleAnalyzer.for_file(str(path), module)
    analyzer.analyze()
    return analyzer.code, analyzer.tags


class NameLinks(SphinxPostTransform):
    "A public name in backticks leads to its definition, where there is one of that name."

    default_priority = 5

    def run(self, **kwargs):
        known, named = self.env.domains["py"].objects, defaultdict(set)
        for full in known:
            named[full] |= {full}
            named[full.removeprefix("tgfr.")] |= {full}
            named[full.rpartition(".")[2]] |= {full}
        for literal in list(self.document.findall(nodes.literal)):
            words = literal.astext()
            found = named.get(words.removesuffix("()"), ())
            if len(found) != 1 or words.isalpha() and words.islower() or isinstance(literal.parent, nodes.reference):
                continue  # `mask` is rather a parameter
            entry = known[full := next(iter(found))]
            literal.replace_self(
                make_refnode(self.app.builder, self.env.docname, entry.docname, entry.node_id, literal.deepcopy(), full)
            )


def setup(app):
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
    app.connect("viewcode-find-source", source_of)
    app.add_post_transform(NameLinks)
