from lin7 import *
from scipy.stats import rankdata
P,D,S=load('f'); P1,D1,S1=load('t10')
f=fit(P,3e4); g=fit(P1,1e5)
st=lambda a,b:(a(b))
a=[f(x) for x in (D,S,P[HELD])]; b=[g(x) for x in (D1,S1,P1[HELD])]
for w in (0,.3,.5,.7,1): report(f'f+{w} t10',*[(1-w)*x/a[0].std()+w*y/b[0].std() for x,y in zip(a,b)],HT,worst=2)
