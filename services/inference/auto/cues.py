"""Words and marks that tell what a request asks for, in English, Russian and Chinese."""

from __future__ import annotations

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


STEPS: Final = _words("""
    first firstly second secondly third then next after afterwards finally lastly step steps stepwise plan stages
    сначала сперва затем потом далее после наконец шаг шаги шагам пошагово поэтапно этап этапы этапам план
    во-первых во-вторых в-третьих
""")
REASONS: Final = _words("""
    why explain prove compare contrast analyze analyse evaluate justify derive design optimize optimise argue reason critique
    tradeoff tradeoffs trade-offs implications summarize summarise refactor debug
    почему зачем объясни объясните докажи докажите сравни сравните проанализируй проанализируйте обоснуй обоснуйте выведи
    оцени оцените спроектируй разработай оптимизируй анализ обобщи отладь причины последствия
""")
# One of these is enough, two of those that follow.
CODE: Final = _words("""
    def async await struct javascript typescript python golang c++ sql bash regex json yaml html css api
    код кода коде функцию скрипт
""")
PERHAPS_CODE: Final = _words("import return function functions const var void static java rust функция функции программу цикл")
MATHS: Final = _words("""
    equation integral derivative theorem lemma matrix polynomial probability eigenvalue modulo
    уравнение уравнения интеграл производная производную теорема теорему матрица матрицу вероятность многочлен
""")
WORDS: Final = STEPS | REASONS | CODE | PERHAPS_CODE | MATHS

# Chinese has no spaces to part words by.
HAN_STEPS: Final = tuple(_words("首先 其次 然后 接着 最后 第一 第二 步骤 一步一步 分步 计划 然後 步驟 計劃"))
HAN_REASONS: Final = tuple(_words("为什么 为何 解释 证明 比较 分析 评估 推导 设计 优化 论证 总结 為什麼 解釋 證明 比較"))
HAN_CODE: Final = tuple(_words("代码 函数 脚本 程序 代碼 函數"))
HAN_MATHS: Final = tuple(_words("方程 积分 导数 定理 矩阵 概率 積分 導數 矩陣"))

CODE_SIGNS: Final = ("```", "SELECT ", "#include", "</", "=>", "();")
CODE_MARKS: Final = ("{", "}", ";", "()", "==", "::")
MATH_MARKS: Final = ("\\frac", "\\sum", "\\int", "$$", "∫", "∑", "√", "≤", "≥", "≠", "∂", "^2", "x²")
