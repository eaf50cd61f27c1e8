from mlxtune.api import check_data as check_data
from mlxtune.api import evaluate as evaluate
from mlxtune.api import generate as generate
from mlxtune.api import load_adapter as load_adapter
from mlxtune.api import load_recipe as load_recipe
from mlxtune.api import load_report as load_report
from mlxtune.api import train as train

__version__: str
